#!/usr/bin/env bash
# Compiles the kernels with strict warnings as errors, without pybind11's headers and without output:
# csrc/check_warnings.sh [compiler ...], default g++.
set -euo pipefail
cd "$(dirname "$0")/.."
for compiler in "${@:-g++}"; do
  for source in csrc/cpu/*.cpp; do
    "$compiler" -std=c++17 -O3 -fsyntax-only -Icsrc -Icsrc/include -Wall -Wextra -Wpedantic \
      -Wshadow -Wconversion -Wno-sign-conversion -Wno-psabi -Werror "$source"
  done
done
