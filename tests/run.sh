#!/usr/bin/env bash
# All tests, lint and types. `bash tests/run.sh --setup` stops after the set-up; other arguments go to pytest.
# TEST_PROCESSES says how many tests run at a time (default: one per core, 8 at most).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh test
if [ "${1:-}" = "--setup" ]; then exit 0; fi
export PATH="$PWD/.venv/bin:$PATH"

# One thread for each of several tests at a time is faster on few cores than many threads for one.
export OMP_NUM_THREADS=1
cores=$(env -u OMP_NUM_THREADS nproc)  # which would count its threads instead
processes=${TEST_PROCESSES:-$((cores < 8 ? cores : 8))}

echo "lint: ruff check"
ruff check .
echo "lint: ruff format --check"
ruff format --check .
echo "lint: shellcheck"
git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck
echo "types: mypy"
mypy
echo "tests: pytest, $processes at a time"
exec python -m pytest -n "$processes" --dist worksteal "$@"
