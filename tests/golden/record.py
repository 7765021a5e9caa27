"""What this code computes on MNIST, as numbers in a file, and whether it still computes the same.

    python -m tests.golden.record --out FILE.json         # run the short pipeline and record it
    python -m tests.golden.record --compare FILE.json     # run it and compare, within rounding or, --exact, bit by bit
    python -m tests.golden.record --compare FILE.json --run DIR     # DIR: of `launch.pipeline --data mnist --short`

Everything goes through public commands and classes, on one CPU thread. Recorded are the losses of every logged step of
both stages, those of stage one's first two steps, the released tokenizer's fingerprint and its codes of 100 held-out
pictures, batches of SampleOrder, the prior's bits per code, and the codes of 50 samples.

mnist_short.json is the record of the commit that it names. With LEAST_CHANNELS = 32 in kernels/cpu/convolution.py, that
commit agrees bit by bit with the record before: of d10b866, the last before the rooms, with deleted_kernels.patch (two
kernels for CPUs were deleted since, and their rounding with them).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.order.sample_order import SampleOrder
from stage1_tokenizer import Tokenizer
from tests import forked
from tests.golden.compare import BITS, OTHER_PROCESSOR, SAME_PROCESSOR, Limits, differences

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "mnist_short.json"
SAMPLES = Path("data", "samples", "mnist")
RECIPE = Path("launch", "recipes", "mnist")
PICTURES, SAMPLES_PER_CLASS = 100, 5

RENAMED = {"prior": {"optimizer/gradient_norm": "gradient_norm", "optimizer/learning_rate": "learning_rate"}}
"""Metrics by the name they have now, with the name that they have in the record."""

MEASURED = ("time", "rate/", "wait/", "memory/", "model/")
"""Beginnings of metrics that depend on the machine and not on what is computed."""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

Record = dict[str, Any]


def command(module: str, **options: object) -> None:
    """Run one command of the pipeline: `run__folder=x` is `--run.folder x`."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('__', '.')}", str(value))]
    done = forked.call([sys.executable, "-m", module, *words], env=ENVIRONMENT)
    if done.returncode:
        raise SystemExit(f"{' '.join(done.args[1:])}\n{done.stdout}\n{done.stderr}")


def make(folder: Path, *, masked: bool = True) -> None:
    """Those stages of `launch.pipeline --data mnist --short` that are recorded, with the same options and folders."""
    train_tokenizer(folder / "tokenizer-run", steps=20, run__log_every=5)
    tokenizer = folder / "tokenizer"
    command("stage1_tokenizer.release", run=folder / "tokenizer-run", out=tokenizer, licence="apache-2.0")
    codes = {part: folder / "codes" / part for part in ("train", "held_out")}
    for part, place in codes.items():
        command("stage2_prior.encode", tokenizer=tokenizer, data=SAMPLES / f"{part}.json", out=place)
    for suffix, kind in (("", "autoregressive"), ("-masked", "masked"))[: 1 + masked]:
        command(
            "stage2_prior.train",
            config=RECIPE / "prior.yaml",
            run__folder=folder / f"prior-run{suffix}",
            run__seed=0,
            run__log_every=5,
            steps=20,
            tokenizer=tokenizer,
            data__index=codes["train"] / "index.json",
            data__held_out=codes["held_out"] / "index.json",
            model__kind=kind,
        )


def train_tokenizer(run: Path, **options: object) -> None:
    """Stage one's training by the shipped recipe."""
    command(
        "stage1_tokenizer.train",
        config=RECIPE / "tokenizer.yaml",
        run__folder=run,
        run__seed=0,
        data__index=SAMPLES / "train.json",
        data__held_out=SAMPLES / "held_out.json",
        evaluate_samples=64,
        **options,
    )


def start() -> list[Record]:
    """What the first two steps of stage one log, each on its own."""
    with tempfile.TemporaryDirectory() as temporary:
        train_tokenizer(Path(temporary) / "run", steps=2, run__log_every=1)
        return [line for line in metrics(Path(temporary) / "run", "tokenizer") if line["kind"] == "train"]


def record(folder: Path) -> Record:
    """The numbers of a folder that `make` or the short pipeline filled."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_pretrained(folder / "tokenizer")
    codes = tokenizer.encode(held_out_pictures()).flatten(1)
    found = {
        "made": machine(),
        "order": order(),
        "tokenizer": {
            "fingerprint": tokenizer.fingerprint,
            "start": start(),
            "metrics": metrics(folder / "tokenizer-run", "tokenizer"),
            "codes": coded(codes.numpy()),
        },
        "prior": prior(folder, "prior-run"),
    }
    if (folder / "prior-run-masked").is_dir():
        found["masked"] = prior(folder, "prior-run-masked")
    return found


def machine() -> Record:
    """Where and with what the record was made."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    known = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    names = ("model name", "cpu family", "model", "stepping", "cache size")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "commit": head.stdout.strip(),
        "cores": os.cpu_count(),
        "processor": ", ".join(f"{name}{known[name]}" for name in names if name in known),
        "instructions": f"{torch.backends.cpu.get_cpu_capability()} {os.environ.get('ONEDNN_MAX_CPU_ISA', '')}".strip(),
        "torch": torch.__version__,
    }


def limits_for(recorded: Record) -> Limits:
    """How near a record from some machine must be to one made here."""
    here, there = machine(), recorded["made"]
    same = all(here[name] == there[name] for name in ("processor", "instructions", "torch"))
    return SAME_PROCESSOR if same else OTHER_PROCESSOR


def held_out_pictures() -> list[Image.Image]:
    """The first held-out digits."""
    pictures: list[Image.Image] = []
    with tarfile.open(ROOT / SAMPLES / "held_out-000000.tar.gz") as tar:
        for member in tar:
            if member.name.endswith(".png") and len(pictures) < PICTURES:
                contents = tar.extractfile(member)
                assert contents is not None
                pictures.append(Image.open(io.BytesIO(contents.read())))
    return pictures


def metrics(run: Path, stage: str) -> list[Record]:
    """What a run logged, step by step, under the names of the record."""
    old = RENAMED.get(stage, {})
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [
        {old.get(name, name): value for name, value in line.items() if not name.startswith(MEASURED)} for line in lines
    ]
    return [line for line in kept if line.keys() - {"step", "kind"}]


def coded(codes_BN: np.ndarray) -> Record:
    """Codes, and a hash of them."""
    codes_BN = codes_BN.reshape(len(codes_BN), -1).astype("<i8")
    return {"sha256": hashlib.sha256(codes_BN.tobytes()).hexdigest(), "codes": codes_BN.tolist()}


def order() -> list[Record]:
    """Batches of a few orders: one rank and several, few lanes, odd windows, later epochs."""
    cases: list[Record] = [
        {"shard_sizes": [1000] * 9, "seed": 0, "batch_size": 32},
        {"shard_sizes": [100, 1, 37, 250], "seed": 7, "batch_size": 12, "lanes": 4, "window": 16},
        {"shard_sizes": [5, 3, 11], "seed": 2**40 + 1, "batch_size": 6, "lanes": 3, "window": 5},
        {"shard_sizes": [100_000] * 50, "seed": 1, "batch_size": 16, "window": 4096},
    ]
    for case in cases:
        given = SampleOrder(**case)
        case["batches"] = {step: given.batch(step).tolist() for step in (0, 1, 31, 1000)}
        ranks = 2 if given.lanes % 2 == 0 else 3
        case["last_rank"] = given.part(3, ranks - 1, ranks).samples.tolist()
    return json.loads(json.dumps(cases))


def prior(folder: Path, run: str) -> Record:
    """A prior's losses, bits per code and samples."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        where = {"prior": folder / run, "tokenizer": folder / "tokenizer"}
        held_out = folder / "codes" / "held_out" / "index.json"
        command("stage2_prior.evaluate", **where, codes=held_out, out=place / "bits.json")
        command("stage2_prior.sample", **where, out=place / "samples", count=SAMPLES_PER_CLASS, seed=0)
        bits = json.loads((place / "bits.json").read_text())
        batches = [np.load(file) for file in sorted((place / "samples" / "codes").glob("*.npy"))]
    return {
        "weights": bits["prior_weights"],
        "bits_per_code": bits["bits_per_code"],
        "metrics": metrics(folder / run, "prior"),
        "samples": coded(np.concatenate(batches)),
    }


def main() -> int:
    """The command; 1 where a comparison finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.record", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="file to record into")
    what.add_argument("--compare", type=Path, help="file with the record to compare with")
    parser.add_argument("--run", type=Path, help="a finished short pipeline; without it, its stages are run")
    parser.add_argument("--exact", action="store_true", help="demand equal bits; for the machine of the record only")
    parser.add_argument("--tolerance", type=float, help="relative difference of losses that passes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.run or Path(temporary)
        if options.run is None:
            make(folder)
        found = record(folder.resolve())
    if options.out:
        options.out.write_text(json.dumps(found, separators=(",", ":")).replace('},{"', '},\n{"') + "\n")
        return 0
    recorded = json.loads(options.compare.read_text())
    limits = BITS if options.exact else limits_for(recorded)
    if options.tolerance is not None:
        limits = replace(SAME_PROCESSOR, losses=options.tolerance)
    unequal = differences(recorded, found, limits)
    print("\n".join(unequal) or f"the same as at commit {recorded['made']['commit'][:7]}, within {limits}")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
