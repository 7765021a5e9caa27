"""Train a tokenizer: `accelerate launch -m stage1_tokenizer.train --config launch/recipes/NAME/tokenizer.yaml …`.

RUN/checkpoints/   tokenizer, discriminators, their optimizers, averaged weights (launch.checkpoint)
RUN/pictures/      held-out pictures beside their reconstructions, at each evaluation
RUN/metrics.jsonl  loss/…, gan/…, codes/…, rate/…; eval/psnr, eval/lpips, eval/codebook_usage, …
"""

import os
import sys

from data.shards.loading import check_present, load_index
from launch.command.cli import UserError, parse, run
from stage1_tokenizer.config.training import TokenizerTrainConfig, init_of

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
    "channels_last",
    "monitor.",
)
"""Settings, beside launch.config.FREE_KEYS, on which the weights don't depend."""


def train(config: TokenizerTrainConfig) -> int:
    """Train, or resume training, to `config.steps`; the exit code (0, or STOPPED after a signal).

    Raises UserError for missing data or weights, before any device is taken.
    """
    check(config)
    from launch.checkpoints import store as checkpoint
    from launch.run.starting import start_run, until_done
    from stage1_tokenizer.media import MEDIA
    from stage1_tokenizer.training.fine_tuning import begin
    from stage1_tokenizer.training.loop import fit
    from stage1_tokenizer.training.trained import build

    terms = MEDIA[config.data.kind].terms(config.loss)
    with start_run(config, config.run, free=free(config)) as started:

        def attempt() -> int:
            trained = build(config, terms, started)
            step = checkpoint.load_latest(started.folder, trained.state, started)
            if step is None:
                begin(config, trained, started)
            return fit(config, trained, started, step or 0)

        return until_done(started, attempt)


def check(config: TokenizerTrainConfig) -> None:
    """Look for everything that the run needs from elsewhere."""
    if not config.data.index:
        raise UserError("data.index is not set: give the path or URL of a shard index")
    kind, ranks = config.data.kind, int(os.environ.get("WORLD_SIZE", "1"))
    for path in (config.data.index, *config.data.mixture, config.data.held_out):
        if not path:
            continue
        index = load_index(path)
        if index.kind != kind:
            raise UserError(f"{path} holds {index.kind}, not {kind}: give an index of {kind}")
        check_present(index, int(os.environ.get("RANK", "0")), ranks)
    from stage1_tokenizer.discriminators import check_discriminator
    from stage1_tokenizer.measuring.features import load_network
    from stage1_tokenizer.media import MEDIA
    from stage1_tokenizer.training.fine_tuning import check_init

    check_init(config)
    if config.evaluate_features != "none":
        load_network(config.evaluate_features)
    for adversarial in config.loss.adversaries.values():
        if adversarial.discriminator not in MEDIA[kind].discriminators:
            raise UserError(f"discriminator={adversarial.discriminator} doesn't support {kind}: set another one")
        check_discriminator(adversarial, config.data.batch_size, ranks)


def free(config: TokenizerTrainConfig) -> tuple[str, ...]:
    """Settings that a resumed run may change; the number of steps too, where the learning rate doesn't depend on it."""
    return (*FREE, "steps") if config.optimizer.decay == "constant" else FREE


def main() -> int:
    """The command; the model of the tokenizer that --init names comes before the other settings."""
    words = sys.argv[1:]
    if init_of(words) is not None:
        from stage1_tokenizer.training.fine_tuning import with_model

        words = with_model(words)
    return train(parse(TokenizerTrainConfig, words, prog="python -m stage1_tokenizer.train"))


if __name__ == "__main__":
    run(main)
