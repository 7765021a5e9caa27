"""How well a prior learns a tokenizer's codes: one small prior of fixed size and training, its samples measured.

Reconstruction figures say how much a tokenizer keeps; priors of the same size tell how learnable its codes are. Each
tokenizer's codes get the same stock Llama, steps and number of samples, without guidance:

OUT/NAME/tokenizer, codes/{train,held_out}, prior-run, samples     what stage two's commands make
OUT/NAME/prior.json       stage2_prior.evaluate: bits_per_code of held-out codes, and the distance of the samples
OUT/NAME/stages/*.json    what was done with which options; finished steps are reused

Stage two rests on stage one, so its commands are started as processes, by module name.
"""

import json
from pathlib import Path
from typing import Any

from data.shards.loading import load_index
from launch.command.cli import UserError
from launch.stages.runner import Runner
from launch.stages.stage import Stage
from stage1_tokenizer.config.comparison import SMALL_PRIOR, CompareConfig
from stage1_tokenizer.tokenizer.model import Tokenizer


def judged(config: CompareConfig, name: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Figures of a small prior of a variant's codes: prior_bits_per_code, prior_frechet_vgg16, prior_samples.

    Nothing for a tokenizer without codes. UserError if one of stage two's commands fails.
    """
    if not tokenizer.codebook_size:
        return {}
    place = Path(config.out) / name
    _keep(tokenizer, place / "tokenizer")
    with Runner(place, f"compare {name}", keyed=True) as runner:
        stages = steps(config, place, tokenizer.config.quantizer.kind)
        if code := runner.run(stages, len(stages)):
            raise UserError(f"the small prior of variants={name} ended with exit code {code}: rerun the command")
    found = json.loads((place / "prior.json").read_text())
    return {f"prior_{key}": found[key] for key in ("bits_per_code", "frechet_vgg16", "samples")}


def _keep(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer where stage two finds it; UserError where another one lies there."""
    if not folder.exists():
        tokenizer.save_pretrained(folder)
    elif Tokenizer.from_pretrained(folder).fingerprint != tokenizer.fingerprint:
        raise UserError(f"{folder} holds another tokenizer: delete {folder.parent}, or choose another out")


def steps(config: CompareConfig, place: Path, quantizer: str) -> list[Stage]:
    """The commands from pictures to figures, in a variant's folder."""
    tokenizer, run, samples = place / "tokenizer", place / "prior-run", place / "samples"
    index = {part: place / "codes" / part / "index.json" for part in ("train", "held_out")}
    pictures = {"train": config.train, "held_out": config.held_out}
    classes = load_index(config.train).classes
    prior = {
        "run.folder": run,
        "run.trackers": "[]",
        "run.save_every": max(1, config.prior_steps // 4),
        "tokenizer": tokenizer,
        "data.index": index["train"],
        "data.held_out": index["held_out"],
        "model.kind": "multiscale" if quantizer == "multiscale" else "autoregressive",
        "model.condition": "class" if classes else "none",
        "steps": config.prior_steps,
        "evaluate_every": config.prior_steps,
        "optimizer.warmup": config.prior_steps // 20,
        **SMALL_PRIOR,
        **config.prior_options,
    }
    count = -(-config.prior_samples // max(1, len(classes)))
    drawn = {"prior": run, "tokenizer": tokenizer, "out": samples, "count": count}
    out = place / "prior.json"
    measured = {"prior": run, "codes": index["held_out"], "samples": samples, "reference": config.held_out, "out": out}
    if config.lpips_weights is not None:
        measured["vgg_weights"] = config.lpips_weights
    encoded = [
        Stage(
            f"codes-{part}",
            f"encode the {part} pictures",
            "stage2_prior.encode",
            options({"tokenizer": tokenizer, "data": pictures[part], "out": index[part].parent}),
            makes=(index[part],),
            reads=(Path(pictures[part]), tokenizer / "model.safetensors"),
            processes=config.processes,
        )
        for part in index
    ]
    made, grid, ranks = (run / "prior" / "prior.json",), (samples / "grid.png",), config.processes
    return [
        *encoded,
        Stage("prior", "train a small prior", "stage2_prior.train", options(prior), made, processes=ranks),
        Stage("samples", "sample it", "stage2_prior.sample", options(drawn), grid, processes=ranks),
        Stage("prior-evaluation", "measure it", "stage2_prior.evaluate", options(measured), (out,)),
    ]


def options(values: dict[str, Any]) -> tuple[str, ...]:
    """Settings by their dotted names as a command line."""
    return tuple(word for name, value in values.items() for word in (f"--{name}", str(value)))
