#!/usr/bin/env bash
# The whole pipeline in one command: bash launch/quickstart.sh [--data mnist|emoji|speech|moving_digits|captioned_digits|named_emoji] [--processes N] [--out DIR] [--masked] [--short]
# Makes .venv, trains a tokenizer and a prior on pictures, speech or clips that ship with the project, samples, evaluates, and writes a
# report. Run again, it reuses what is there. Further options: .venv/bin/python -m launch.pipeline --help
set -euo pipefail

# Paths that the user gives are relative to where the command was called.
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

options=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            sed -n '2,4s/^# //p' launch/quickstart.sh
            exit 0
            ;;
        --short | --masked) options+=("$1" true) ;;
        --out=*) options+=(--out "$(cd "$called_from" && realpath -m "${1#--out=}")") ;;
        --out)
            if [ $# -lt 2 ]; then
                echo "error: --out needs a folder" >&2
                exit 2
            fi
            options+=(--out "$(cd "$called_from" && realpath -m "$2")")
            shift
            ;;
        *) options+=("$1") ;;
    esac
    shift
done

bash launch/setup.sh run
exec "$root/.venv/bin/python" -m launch.pipeline "${options[@]+"${options[@]}"}"
