"""Train a prior: `accelerate launch -m stage2_prior.train --config launch/recipes/NAME/prior.yaml --tokenizer DIR …`.

RUN/checkpoints/   prior, its optimizer, averaged weights (launch.checkpoint)
RUN/metrics.jsonl  loss/…, optimizer/…, rate/…; eval/bits_per_code, eval/accuracy
RUN/prior/         the averaged weights in stock form, at the end
"""

import os
from pathlib import Path
from typing import Any

from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.command.cli import UserError, parse, run
from launch.files.outputs import try_folder
from stage2_prior.config.training import PriorTrainConfig

FREE = (
    "evaluate_every",
    "data.threads",
    "data.read_ahead",
    "data.micro_batch",
    "optimizer.accumulate",
    "activation_checkpointing",
    "compile",
    "compile_fallback",
    "dry_run",
)
"""Settings, beside launch.config.FREE_KEYS, on which the weights don't depend."""


def train(config: PriorTrainConfig) -> int:
    """Train, or resume training, to `config.steps` and export RUN/prior; the exit code (0, or STOPPED by a signal)."""
    if config.dry_run:
        return print_cost(config)
    try_folder("run.folder", config.run.folder)
    if config.run.precision == "fp16":
        raise UserError("run.precision=fp16 is not supported for priors: set it to bf16 or fp32")
    opened = checked_unified(config) if config.model.kind == "unified" else None
    sets = opened.sets if opened else checked_codes(config)
    from data.shards.identity import Identity
    from launch.run.compiling import or_uncompiled
    from launch.run.starting import start_run, until_done
    from launch.strategies.base import STRATEGIES
    from stage2_prior.training.loop import build, fit

    index, data = opened or sets["data.index"], {key: Identity.of(one) for key, one in sets.items()}
    with start_run(config, config.run, free=FREE, strategies=STRATEGIES, data=data) as started:
        held_out = sets.get("data.held_out")

        def attempt(config: PriorTrainConfig) -> int:
            return fit(config, index, held_out, started, *build(config, index, started))

        return until_done(started, lambda: or_uncompiled(config, started, attempt))


def checked_unified(config: PriorTrainConfig) -> Any:
    """The sets of a unified prior and their vocabulary; UserError as of `UnifiedSets.opened`."""
    from stage2_prior.training.unified import UnifiedSets

    return UnifiedSets.opened(config, *_ranks())


def _ranks() -> tuple[int, int]:
    """This rank and the number of ranks, before they are joined."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def checked_codes(config: PriorTrainConfig) -> dict[str, ShardIndex]:
    """The indexes by their settings; raises UserError unless all hold codes of config.tokenizer that belong together.

    Together: of one source, with classes that `data.index` has, and with captions where the prior is conditioned on
    them.
    """
    from data.reading.sets import training_sets
    from stage1_tokenizer import Tokenizer
    from stage2_prior.codes.matching import matched
    from stage2_prior.codes.source import CodeSource
    from stage2_prior.priors.build import check_form

    rank, ranks = _ranks()
    sets = training_sets(config.data, rank, ranks)
    index, condition = sets["data.index"], config.model.condition
    source = CodeSource.of_index(index, config.data.index)
    place = str(config.tokenizer)
    tokenizer = Tokenizer.from_pretrained(place)
    source.must_be_of(tokenizer.code_fingerprint, "tokenizer", place)
    check_form(config.model.kind, source, config.model.head)
    if config.model.head == "bits" and not tokenizer.config.quantizer.binary:
        raise UserError(
            f"model.head=bits needs codes whose bits are channels, of lfq, bsq or fsq with 2 levels, but these are of "
            f"{tokenizer.config.quantizer.kind}: set model.head to factors or softmax"
        )
    if condition == "text" and not index.meta.get("captions"):
        raise UserError(
            f"data.index={config.data.index} has no captions, which model.condition=text needs: pack the pictures with "
            "theirs and encode them again, or set model.condition to class or none"
        )
    for key, other in sets.items():
        say = print if rank == 0 and key == "data.held_out" else None  # of a mixture it was said
        matched(other, source, condition, index.classes, key, say)
    return sets


def print_cost(config: PriorTrainConfig) -> int:
    """Print the cost for --dry_run: of the codes if they exist, else of 16×16 out of 16384 codes and 1000 classes."""
    from stage2_prior.codes.source import CodeSource
    from stage2_prior.priors.build import KINDS
    from stage2_prior.training.cost import dry_run, unified_dry_run

    if config.model.kind == "unified":
        print(unified_dry_run(config, checked_unified(config).on_no_device(config)))
        return 0
    if Path(config.data.index).exists():
        index = load_index(config.data.index)
        print(dry_run(config, CodeSource.of_index(index, config.data.index), index.classes))
    else:
        note = f" (assumed: {config.data.index} is not there)"
        source = CodeSource("", 16384, (16, 16), {}, **KINDS[config.model.kind].assumed_codes)
        print(dry_run(config, source, list(map(str, range(1000))), note))
    return 0


def main() -> int:
    """The command."""
    return train(parse(PriorTrainConfig, prog="python -m stage2_prior.train"))


if __name__ == "__main__":
    run(main)
