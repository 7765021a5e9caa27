#!/usr/bin/env bash
# Makes what tests/legacy holds with the code of a commit before the rooms: bash tests/legacy/make.sh CHECKOUT
# CHECKOUT is a clone at d10b866150728454b34930048dbf0aa8fd595ee0 with its .venv. Takes two minutes on one thread.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD
cd "$1"
commit=d10b866150728454b34930048dbf0aa8fd595ee0
if [ "$(git rev-parse HEAD)" != "$commit" ]; then
    echo "error: $1 is not at $commit" >&2
    exit 2
fi
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=""
python=$PWD/.venv/bin/python
place=tests/legacy
rm -rf "$place"
mkdir -p "$place"
cp -r "$here/recipe" "$place/recipe"

# Nine digits of each class in class folders, packed.
"$python" - "$place/pictures" <<'PYTHON'
import sys, tarfile
from pathlib import Path

counts, out = {}, Path(sys.argv[1])
with tarfile.open("data/samples/mnist/held_out-000000.tar.gz") as tar:
    for member in tar:
        label = member.name[0]
        if member.name.endswith(".png") and counts.get(label, 0) < 9:
            counts[label] = counts.get(label, 0) + 1
            (out / label).mkdir(parents=True, exist_ok=True)
            (out / label / member.name).write_bytes(tar.extractfile(member).read())
PYTHON
"$python" -m data.pack "$place/pictures" "$place/shards" --kind folder --held_out 0.2 --processes 1
rm -r "$place/pictures"

# A finished pipeline, whose runs keep the checkpoint of step 4 only: to resume, and to compare with what they logged.
"$python" -m launch.pipeline --data digits --recipe "$place/recipe" --train "$place/shards/train.json" \
    --held_out "$place/shards/held_out.json" --out "$place/pipeline" --count 2 --masked true

# The same chain as jobs, run on this machine.
"$python" -m launch.submit "$place/recipe" --out "$place/chain" --local

# The prior as a release.
"$python" -m stage2_prior.release --prior "$place/pipeline/prior-run" --out "$place/prior" --licence apache-2.0
"$python" -m stage2_prior.release --prior "$place/pipeline/prior-run-masked" --out "$place/prior-masked" --licence apache-2.0

# The plan of a submission to SLURM, with jobs that never ran (there is none here).
cat >"$place/chain/jobs.json" <<JOBS
{"commit": "$commit", "stages": {"samples": {"job": "12", "after": [], "nodes": 1, "parts": 1, "command": ["sbatch"]}}}
JOBS

# Small, and without this machine's folders. What the chain has alike with the pipeline, the test takes from there.
rm -rf "$place"/*/*-run*/checkpoints/step-*8 "$place"/chain/*-run*/checkpoints "$place"/*/*.html "$place"/*/logs
find "$place" \( -name .lock -o -name log.txt \) -delete
grep -rlI "$PWD" "$place" | xargs -r sed -i "s#$PWD/##g"
(cd "$place/chain" && find . -type f | while read -r file; do
    if cmp -s "$file" "../pipeline/$file"; then rm "$file"; fi
done && find . -type d -empty -delete)
rm -rf "$here"/{shards,pipeline,chain,prior,prior-masked}
cp -r "$place"/{shards,pipeline,chain,prior,prior-masked} "$here"
cd "$here/../.."
"$python" - "$commit" >"$here/made.json" <<'PYTHON'
import json, sys
from tests.golden.record import machine

print(json.dumps({**machine(), "commit": sys.argv[1]}))
PYTHON
du -sh "$here"
