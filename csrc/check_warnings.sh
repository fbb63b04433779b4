#!/usr/bin/env bash
# Compiles the kernels with strict warnings as errors, without pybind11's headers and without output:
#
#     csrc/check_warnings.sh [compiler ...]      default: g++
#
# The CUDA kernels are compiled as C++, as the tests do that run them on the CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
flags=(-std=c++17 -O3 -fsyntax-only -Icsrc -Icsrc/include -Wall -Wextra -Wpedantic -Wshadow
  -Wconversion -Wno-sign-conversion -Wno-psabi -Werror)
emulated=(-x c++ -DCUEKIT_BACKEND_CUDA -Wno-unknown-pragmas -isystem tests/emulated_cuda)
jobs=$(getconf _NPROCESSORS_ONLN)
for compiler in "${@:-g++}"; do
  find csrc/cpu -name '*.cpp' -print0 |
    xargs -0 -n 1 -P "$jobs" "$compiler" "${flags[@]}"
  find csrc/cuda -name '*.cu' -print0 |
    xargs -0 -n 1 -P "$jobs" "$compiler" "${flags[@]}" "${emulated[@]}"
done
