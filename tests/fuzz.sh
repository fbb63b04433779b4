#!/usr/bin/env bash
# Fuzzes for as long as you like: half of the time the readers of files with atheris, and the other
# half the properties of the ops with Hypothesis, with new examples each time.
#
#     tests/fuzz.sh [SECONDS [FOLDER]]      default: 60; 36000 is a night
#
# FOLDER keeps the inputs that reach new code, for the next run. Stops at the first failure and prints
# it. Needs the packages of `pip install 'cuekit[fuzz]'`.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
folder=${2-}
if [[ -z $folder ]]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
export PYTHONPATH=$PWD
unset CI # with it, Hypothesis draws the same examples in each run

python tests/fuzz_readers.py "$folder" "-max_total_time=$((seconds / 2))" -verbosity=0 -print_final_stats=1

end=$((SECONDS + seconds / 2))
while ((SECONDS < end)); do
  # A file of tests that has properties, by chance.
  file=$(grep -l '^@given' tests/test_*.py | shuf -n 1)
  echo "== $file"
  status=0
  CUEKIT_TEST_EXAMPLES=1000 timeout "$((end - SECONDS))" python -m pytest -q -x "$file" || status=$?
  # 5: no tests, as a package that they need is missing; 124: the time was over.
  case $status in 0 | 5 | 124) ;; *) exit "$status" ;; esac
done
