"""Every discriminator of sounds, both presets and both kinds of weights, trained for a few hundred steps each.

    python -m tests.benchmarks.sound_losses [--steps 300] [--out FOLDER] [--only NAME …]

Each is a training with the recipe of the sample set `speech`, smaller, and with other losses; discriminators start at
the first step. A table says whether it went well: skipped updates, the largest gradient's norm over the median, what
the monitor warned of, the figures at the end, and the processor's seconds. The exit code is 1 if one diverged: an
update was skipped, a logged value isn't finite, or the mel distance is above that of the same training without a
discriminator by more than a half.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from launch.command.cli import parse
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.train import train

RECIPE = "launch/recipes/speech/tokenizer.yaml"
SIZES = {
    "data.batch_size": "4",
    "data.transform.length": "2048",
    "model.vocos.width": "64",
    "model.vocos.blocks": "[2, 2]",
    "evaluate_samples": "32",
}
"""A quarter of the recipe's clips, a quarter as long, and a small network: what is tried is whether losses diverge."""
SMALL: dict[str, Any] = {"channels": 4, "start": 0, "ramp": 50, "adaptive": False}
MATCHING = {**SMALL, "weight": 1.0, "feature_matching": 2.0}
WINDOWS = [512, 256, 128]
MEL = '{"mel": {"windows": [64, 128, 256, 512]}}'
BALANCED = {
    "loss.balance": "gradient",
    "loss.terms": '{"waveform": 0.1, "mel": {"weight": 2, "windows": [64, 128, 256, 512]}}',
}


def adversarial(**settings: Any) -> dict[str, str]:
    """A discriminator in the place of the recipe's, as options."""
    return {f"loss.adversarial.{name}": json.dumps(value).strip('"') for name, value in settings.items()}


CASES: dict[str, dict[str, str]] = {
    "terms alone": {"loss.adversarial.weight": "0"},
    "periods": adversarial(discriminator="periods", loss="least_squares", peak=0.8, windows=[], **MATCHING),
    "bands": adversarial(discriminator="bands", loss="least_squares", peak=0.8, windows=WINDOWS, **MATCHING),
    "stft": adversarial(discriminator="stft", loss="hinge", peak=0.0, windows=WINDOWS, **MATCHING),
    "stft, balanced": BALANCED
    | adversarial(discriminator="stft", loss="hinge", peak=0.0, windows=WINDOWS, **{**MATCHING, "weight": 4.0}),
    "terms alone, balanced": {**BALANCED, "loss.adversarial.weight": "0"},
    "dac's preset": {
        "loss.preset": "dac",
        "loss.terms": MEL,
        "loss.discriminators": json.dumps([{"windows": WINDOWS, "channels": 4}]),
        **adversarial(discriminator="periods", windows=[], weight=2.0, reduction="sum", **{**SMALL, "peak": 0.8}),
    },
    "encodec's preset": {
        "loss.preset": "encodec",
        "loss.terms": MEL,
        **adversarial(
            discriminator="stft",
            windows=WINDOWS,
            loss="hinge",
            weight=4.0,
            feature_matching=4.0,
            **{**SMALL, "peak": 0.0},
        ),
    },
}
"""Options of each training, beside the recipe's."""


def trained(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """What became of one training."""
    options = {
        **SIZES,
        "run.folder": str(folder),
        "run.trackers": "[]",
        "run.log_every": "10",
        "run.save_every": str(steps),
        "steps": str(steps),
        "evaluate_every": "0",
        **CASES[name],
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    begun = time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        train(parse(TokenizerTrainConfig, ["--config", RECIPE, *words], prog="sound_losses"))
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    train_lines = [one for one in lines if one["kind"] == "train"]
    last = [one for one in lines if one["kind"] == "eval"][-1]
    values = [value for one in train_lines for value in one.values() if isinstance(value, float)]
    norms = [one["optimizer/gradient_norm"] for one in train_lines]
    warned = {key.removeprefix("monitor/") for one in lines for key in one if key.startswith("monitor/")}
    return {
        "skipped": max(int(one.get("updates/skipped", 0)) for one in train_lines),
        "finite": all(map(math.isfinite, values)),
        "spike": max(norms) / statistics.median(norms),
        "warned": ", ".join(sorted(warned)) or "–",
        "seconds": time.process_time() - begun,
        **{key: last[f"eval/{key}"] for key in ("mel_distance", "si_sdr") if f"eval/{key}" in last},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", help="folder for the runs; without it they are deleted")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    args = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, name in enumerate(args.only):
            folder = Path(args.out or temporary) / f"{number}-{name.replace(' ', '_')}"
            results[name] = trained(name, folder, args.steps)
            print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    limit = 1.5 * results.get("terms alone", {}).get("mel_distance", math.inf)
    print("| losses | mel distance | SI-SDR | skipped | largest norm / median | warned of | seconds |")
    print("|---" * 7 + "|")
    diverged = []
    for name, one in results.items():
        figures = [format(one[key], ".3f") if key in one else "–" for key in ("mel_distance", "si_sdr")]
        ends = f"{one['skipped']} | {one['spike']:.1f} | {one['warned']} | {one['seconds']:.0f}"
        print(f"| {name} | {' | '.join(figures)} | {ends} |")
        if one["skipped"] or not one["finite"] or not one["mel_distance"] <= limit:
            diverged.append(name)
    if diverged:
        print(f"diverged: {', '.join(diverged)}", file=sys.stderr)
    return bool(diverged)


if __name__ == "__main__":
    sys.exit(main())
