"""All figures of a finished pipeline or chain: the content of OUT/metrics.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.files.atomic import write_file
from launch.files.inputs import settings_of
from launch.files.places import without_places
from launch.run import provenance
from launch.stages import records
from launch.stages.listing import PipelineConfig
from launch.stages.stage import Stage

FILE = "metrics.json"

OF_SAMPLES = (
    *("agreement", "class_agreement", "class_agreement_by_class", "real_accuracy", "real_samples", "classifier"),
    *("frechet_vgg16", "kid_vgg16", "precision_vgg16", "recall_vgg16"),
)
"""Figures of the prior's evaluation that tell of the samples."""

APART = ("prediction", "text", "captions", "retrieval")
"""Groups of figures of the prior's evaluation that stand beside it."""


def write(config: PipelineConfig, done: Sequence[Stage]) -> None:
    """Write OUT/metrics.json."""
    out = config.folder
    tokenizer = settings_of(out / "evaluation" / "tokenizer.json")
    prior = settings_of(out / "evaluation" / "prior.json")
    agreeing = [name for name in prior if "_agreement" in name or name.startswith("real_")]
    samples = {name: prior.pop(name) for name in dict.fromkeys((*OF_SAMPLES, *agreeing)) if name in prior}
    apart = {name: prior.pop(name) for name in APART if name in prior}
    samples["count"] = prior.pop("samples", None)
    seconds = {stage.name: records.read(out, stage.name).get("seconds") for stage in done}
    masked = {"masked": settings_of(out / "evaluation" / "prior-masked.json")} if config.masked else {}
    figures = {
        "tokenizer": tokenizer,
        "prior": prior,
        "samples": samples,
        **apart,
        **masked,
        "seconds": {**seconds, "total": round(sum(value or 0 for value in seconds.values()), 1)},
        "setup_seconds": setup_seconds(),
        "data": config.data,
        "processes": config.processes,
        "short": config.short,
        "commit": provenance.commit(),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "date": provenance.now(),
    }
    write_file(out / FILE, json.dumps(without_places(figures), indent=2) + "\n")


def setup_seconds(venv: Path = Path(sys.prefix)) -> int | None:
    """How long launch/setup.sh took to set up this environment; None where something else did."""
    stamp = venv / ".vqloom-setup"
    words = stamp.read_text().split() if stamp.exists() else []
    return int(words[words.index("seconds") + 1]) if "seconds" in words else None
