#!/usr/bin/env bash
# Compiles the kernels with strict warnings as errors, without pybind11's headers and without output:
# csrc/check_warnings.sh [compiler ...], default g++. The CUDA kernels as the tests emulate them.
set -euo pipefail
cd "$(dirname "$0")/.."
flags=(-std=c++17 -O3 -fsyntax-only -Icsrc -Icsrc/include -Wall -Wextra -Wpedantic -Wshadow
  -Wconversion -Wno-sign-conversion -Wno-psabi -Werror)
for compiler in "${@:-g++}"; do
  for source in csrc/cpu/*.cpp csrc/cpu/*/*.cpp; do
    "$compiler" "${flags[@]}" "$source"
  done
  for source in csrc/cuda/*.cu; do
    "$compiler" "${flags[@]}" -DCUEKIT_BACKEND_CUDA -x c++ -Wno-unknown-pragmas -isystem tests/emulated_cuda "$source"
  done
done
