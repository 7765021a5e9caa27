"""Train a tokenizer: `accelerate launch -m stage1_tokenizer.train --config launch/recipes/NAME/tokenizer.yaml …`.

RUN/checkpoints/   tokenizer, discriminators, their optimizers, averaged weights (launch.checkpoint)
RUN/pictures/      held-out pictures beside their reconstructions, at each evaluation (RUN/sounds/, RUN/videos/)
RUN/metrics.jsonl  loss/…, gan/…, codes/…, rate/…; eval/psnr, eval/lpips, eval/codebook_usage, …
"""

import os
import sys

from data.shards.index import ShardIndex
from launch.command.checks import named
from launch.command.cli import UserError, parse, run
from launch.files.outputs import try_folder
from stage1_tokenizer.config.training import TokenizerTrainConfig, setting_of

FREE = (
    "evaluate_every",
    "evaluate_samples",
    "evaluate_features",
    "data.held_out",
    "data.threads",
    "data.read_ahead",
    "data.micro_batch",
    "activation_checkpointing",
    "compile",
    "compile_fallback",
    "cuda_graph",
    "channels_last",
    "monitor.",
    "dry_run",
)
"""Settings, beside launch.config.FREE_KEYS, on which the weights don't depend."""


def train(config: TokenizerTrainConfig) -> int:
    """Train, or resume training, to `config.steps`; the exit code (0, or STOPPED after a signal).

    Raises UserError for missing data or weights, before any device is taken.
    """
    if config.dry_run:
        from stage1_tokenizer.training.cost import dry_run

        print(dry_run(config))
        return 0
    try_folder("run.folder", config.run.folder)
    sets = check(config)
    from data.shards.identity import Identity
    from launch.checkpoints import store as checkpoint
    from launch.run.compiling import or_uncompiled
    from launch.run.starting import start_run, until_done
    from launch.strategies.base import STRATEGIES
    from stage1_tokenizer.media import MEDIA
    from stage1_tokenizer.training.fine_tuning import begin
    from stage1_tokenizer.training.loop import fit
    from stage1_tokenizer.training.trained import build

    terms = MEDIA[config.data.kind].terms(config.loss, config.data.transform)
    data = {key: Identity.of(index) for key, index in sets.items()}
    with start_run(config, config.run, free=free(config), strategies=STRATEGIES, data=data) as started:

        def attempt(config: TokenizerTrainConfig) -> int:
            trained = build(config, terms, started)
            step = checkpoint.load_latest(started.folder, trained.state, started)
            if step is None:
                begin(config, trained, started)
            return fit(config, trained, started, step or 0)

        return until_done(started, lambda: or_uncompiled(config, started, attempt))


def check(config: TokenizerTrainConfig) -> dict[str, ShardIndex]:
    """Look for everything that the run needs from elsewhere; its data by their settings."""
    from data.reading.sets import training_sets

    kind, ranks = config.data.kind, int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    sets = training_sets(config.data, rank, ranks)
    if rank == 0 and (note := other_classes(sets)):
        print(note, flush=True)
    from stage1_tokenizer.discriminators import check_discriminator
    from stage1_tokenizer.media import MEDIA
    from stage1_tokenizer.training.fine_tuning import check_init
    from stage1_tokenizer.training.shared import check_strategy

    check_init(config)
    check_strategy(config)
    if config.cuda_graph:
        from torch.cuda import is_available

        from launch.ranks.start import strategy
        from stage1_tokenizer.training.cuda_graph import check_cuda_graph

        check_cuda_graph(is_available(), ranks, strategy(config.run))
    if config.evaluate_features != "none":
        MEDIA[kind].network(config.evaluate_features)
    for adversarial in config.loss.adversaries.values():
        if adversarial.discriminator not in MEDIA[kind].discriminators:
            raise UserError(f"discriminator={adversarial.discriminator} doesn't support {kind}: set another one")
        check_discriminator(adversarial, config.data.batch_size, ranks)
    return sets


def other_classes(sets: dict[str, ShardIndex]) -> str:
    """A note if the held-out set has classes that the training has not; tokenizers need no labels."""
    trained = {name for key, index in sets.items() if key != "data.held_out" for name in index.classes}
    held_out = sets.get("data.held_out")
    odd = [name for name in held_out.classes if name not in trained] if held_out and trained else []
    return f"note: data.held_out has classes that the training has not: {named(odd)}" if odd else ""


def free(config: TokenizerTrainConfig) -> tuple[str, ...]:
    """Settings that a resumed run may change; the number of steps too, where the learning rate doesn't depend on it."""
    return (*FREE, "steps") if config.optimizer.decay == "constant" else FREE


def main() -> int:
    """The command; the model of the tokenizer that --init names comes before the other settings."""
    words = sys.argv[1:]
    if setting_of("init", words) is not None:
        from stage1_tokenizer.training.fine_tuning import with_model

        words = with_model(words)
    return train(parse(TokenizerTrainConfig, words, prog="python -m stage1_tokenizer.train"))


if __name__ == "__main__":
    run(main)
