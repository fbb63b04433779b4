#!/usr/bin/env bash
# Runs the tests on a build with sanitizers: AddressSanitizer and UndefinedBehaviorSanitizer, or, to
# find data races, ThreadSanitizer.
#
#     tests/sanitize.sh [arguments for pytest]
#     tests/sanitize.sh thread [arguments for pytest]
#
# Builds in a copy of the tree, so that the working tree keeps its own compiled modules. Needs gcc, and
# setuptools and the packages of `pip install 'cuekit[test]'` in the active environment.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir "$copy/tree"
tar -C "$root" --exclude=.git --exclude='.venv*' --exclude=build --exclude='*.so' --exclude=__pycache__ -cf - . |
  tar -C "$copy/tree" -xf -
cd "$copy/tree"

if [[ ${1-} == thread ]]; then
  shift
  sanitize=-fsanitize=thread
  flags="-O1 -g $sanitize"
  runtime=libtsan.so
  # The tests of threads, forks and signals. A forked child has started its own threads.
  tests=(tests/test_parallel.py tests/test_interrupt.py)
  # No limit on the address space: the sanitizer reserves terabytes of it.
  tests+=(--deselect tests/test_parallel.py::test_a_large_label_takes_no_memory)
  # These take seconds otherwise, and minutes here: they would be ended.
  tests+=(--deselect tests/test_interrupt.py::test_interrupt)
  tests+=(--deselect "tests/test_interrupt.py::test_signals[handler_returns]")
  tests+=(--deselect "tests/test_interrupt.py::test_resources[kept_memory]")
  export TSAN_OPTIONS="halt_on_error=1 die_after_fork=0 second_deadlock_stack=1"
else
  sanitize=-fsanitize=address,undefined
  # -fno-wrapv: Python's own flags define what a signed overflow gives, and hide it from the sanitizer.
  flags="-O1 -g -fno-wrapv $sanitize -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
  runtime=libasan.so
  # Left out:
  # - test_voc.py: hundreds of photos take too long and reach no code that other tests do not reach.
  # - the limit on the address space: the sanitizer reserves terabytes of it.
  # - forking while another thread computes: the child may inherit a lock of the sanitizer's allocator
  #   that is never released. Forking while no other thread computes is tested.
  # - pages in a browser, which does not start with the sanitizer's runtime.
  # - workers that crash: the sanitizer catches the signal that the tests look for.
  tests=(--ignore tests/test_voc.py)
  tests+=(--deselect tests/test_parallel.py::test_a_large_label_takes_no_memory)
  tests+=(--deselect "tests/test_parallel.py::test_forked_child[fork_while_busy]")
  tests+=(--deselect tests/test_view.py::test_page_in_a_browser)
  tests+=(--deselect tests/test_view.py::test_browser_sees_requests_and_scripts)
  crashing=tests/test_run_labels.py::test_a_bad_photo_is_listed_and_the_others_are_done
  tests+=(--deselect "${crashing}[crashing-1]" --deselect "${crashing}[crashing-2]")
  # The interpreter does not free all its memory when it exits, which would be reported as leaks.
  export ASAN_OPTIONS=detect_leaks=0
  export UBSAN_OPTIONS=print_stacktrace=1
fi

# Exported, because the tests build the emulated CUDA kernels with them.
export CC=gcc CXX=g++ CUEKIT_CUDA=0 CUEKIT_CXXFLAGS="$flags" CUEKIT_LDFLAGS="$sanitize"
python setup.py --quiet build_ext --inplace

# The interpreter is not instrumented, so the sanitizer's runtime is loaded before it. libstdc++ is
# loaded too: without it the runtime finds no __cxa_throw and aborts at the first C++ exception.
export LD_PRELOAD="$(gcc -print-file-name=$runtime) $(gcc -print-file-name=libstdc++.so)"
export PYTHONPATH="$copy/tree"
export CUEKIT_DATA="${CUEKIT_DATA:-$root/../shared/data}"

found=$(python -c 'import cuekit._cpu; print(cuekit._cpu.__file__)')
case $found in
  "$copy"/*) ;;
  *)
    echo "instead of the instrumented build, Python imports $found" >&2
    exit 1
    ;;
esac

# --capture=sys: otherwise a sanitizer's report is lost when it aborts the process.
python -m pytest -q --capture=sys "${tests[@]}" "$@"
