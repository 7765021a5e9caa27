"""The stages of decoder post-training, of recipes that have decoder.yaml: a decoder tuned on what the prior draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.stages.stage import Stage, options


def decoder_stages(
    out: Path, recipe: Path, train: Path, held_out: Path, *, processes: int, licence: str, short: dict[str, Any]
) -> list[Stage]:
    """Redraw the training codes, tune the decoder on them, and release the tokenizer with it as OUT/decoder.

    None where the recipe's file isn't there; `short` are further options of the training.
    """
    if not recipe.is_file():
        return []
    run, decoder = out / "decoder-run", out / "decoder"
    codes, redrawn = (out / "codes" / name / "index.json" for name in ("train", "redrawn"))
    data = {"data__index": train, "data__held_out": held_out, "data__codes": redrawn}
    start = {"config": recipe, "init": out / "tokenizer", "freeze": "[encoder, quantizer]"}
    return [
        Stage(
            "redraw",
            "redraw the training codes by the prior",
            "stage2_prior.redraw",
            options(prior=out / "prior-run", codes=codes, out=redrawn.parent),
            makes=(redrawn,),
            processes=processes,
        ),
        Stage(
            "decoder",
            "tune the decoder on them",
            "stage1_tokenizer.train",
            options(**start, run__folder=run, run__seed=0, **data, **short),
            makes=(run / "config.yaml",),
            reads=(recipe, train, held_out),
            processes=processes,
        ),
        Stage(
            "decoder-release",
            "release the tokenizer with this decoder",
            "stage1_tokenizer.release",
            options(run=run, out=decoder, licence=licence),
            makes=(decoder / "model.safetensors",),
        ),
    ]
