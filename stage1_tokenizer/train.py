"""Train a tokenizer: `accelerate launch -m stage1_tokenizer.train --config launch/recipes/NAME/tokenizer.yaml …`.

RUN/checkpoints/   tokenizer, discriminators, their optimizers, averaged weights (launch.checkpoint)
RUN/pictures/      held-out pictures beside their reconstructions, at each evaluation
RUN/metrics.jsonl  loss/…, gan/…, codes/…, rate/…; eval/psnr, eval/lpips, eval/codebook_usage, …

Legend: B batch (this rank's part), C channels, H W pixels, h w latent grid, K codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from data.shards.loading import check_present, load_index
from launch.command.cli import UserError, parse, run
from stage1_tokenizer.config.initial import init_of
from stage1_tokenizer.config.training import TokenizerTrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from data.pictures.batches import PictureBatch
    from launch.run.runtime import Run
    from stage1_tokenizer.losses.term import Term
    from stage1_tokenizer.media.medium import Medium
    from stage1_tokenizer.training.trained import Trained

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
    terms = check(config)
    from launch.checkpoints import store as checkpoint
    from launch.run.starting import start_run, until_done
    from stage1_tokenizer.training.fine_tuning import begin
    from stage1_tokenizer.training.trained import build

    with start_run(config, config.run, free=free(config)) as started:

        def attempt() -> int:
            trained = build(config, terms, started)
            step = checkpoint.load_latest(started.folder, trained.state, started)
            if step is None:
                begin(config, trained, started)
            return fit(config, trained, started, step or 0)

        return until_done(started, attempt)


def fit(config: TokenizerTrainConfig, trained: Trained, run: Run, step: int) -> int:
    """Train from `step` to the end or to a signal; the exit code. Raises NotFiniteError after too many bad updates."""
    from data.reading.stream import Stream
    from launch.checkpoints import store as checkpoint
    from launch.run.schedule import due
    from launch.run.seeding import seed_step
    from stage1_tokenizer.training.monitor import Monitor

    if step >= config.steps:
        run.say(f"{run.folder} is finished: it holds step {step}, nothing is left to do")
        return 0
    began, held_out = step, config.data.held_out
    monitor = Monitor.of(config, trained.tokenizer, run.world_size)
    with (
        Stream(config.data, seed=run.data_seed, rank=run.rank, world_size=run.world_size) as samples,
        run.progress("train tokenizer", config.steps, unit="steps", start=step) as bar,
    ):
        for batch in samples.batches(step):
            stop, last = run.stopping(), step == config.steps
            if held_out and (last or (not stop and due(step, config.evaluate_every, began))):
                run.log(step, evaluate(config, trained, run, step))
            if last or stop or due(step, config.run.save_every, began):
                checkpoint.save(run.folder, step, trained.state, run, keep=config.run.keep)
            if last or stop:
                break
            seed_step(config.run.seed, run.rank, step)
            scalars, good = train_step(config, trained, batch, step, run.device)
            logged = run.record(scalars, step=step, samples=config.data.batch_size, good=good)
            run.note(step, monitor.look(logged or {}))
            step += 1
            bar.advance()
    if stop and not last:
        run.say(f"stopped at step {step}; rerun the same command to resume")
    return 0 if last else run.exit_code


def medium(config: TokenizerTrainConfig) -> Medium:
    """The record of the configured kind of data."""
    from stage1_tokenizer.media import MEDIA

    return MEDIA[config.data.kind]


def check(config: TokenizerTrainConfig) -> list[Term]:
    """Look for everything that the run needs from elsewhere; the terms at the reconstruction."""
    kind = medium(config).kind
    if not config.data.index:
        raise UserError("data.index is not set: give the path or URL of a shard index")
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    for path in (config.data.index, *config.data.mixture, config.data.held_out):
        if not path:
            continue
        index = load_index(path)
        if index.kind != kind:
            raise UserError(f"{path} holds {index.kind}, not {kind}: give an index of {kind}")
        check_present(index, int(os.environ.get("RANK", "0")), ranks)
    from stage1_tokenizer.discriminators import check_discriminator
    from stage1_tokenizer.measuring.features import load_network
    from stage1_tokenizer.training.fine_tuning import check_init

    check_init(config)
    if config.evaluate_features != "none":
        load_network(config.evaluate_features)
    for adversarial in config.loss.adversaries.values():
        if adversarial.discriminator not in medium(config).discriminators:
            raise UserError(f"discriminator={adversarial.discriminator} doesn't take {kind}: choose another one")
        check_discriminator(adversarial, config.data.batch_size, ranks)
    return medium(config).terms(config.loss)


def free(config: TokenizerTrainConfig) -> tuple[str, ...]:
    """Settings that a resumed run may change; the number of steps too, where the learning rate doesn't depend on it."""
    return (*FREE, "steps") if config.optimizer.decay == "constant" else FREE


def train_step(
    config: TokenizerTrainConfig, trained: Trained, batch: PictureBatch, step: int, device: torch.device
) -> tuple[dict[str, Tensor | float], Tensor]:
    """One step of all optimizers on this rank's part of a batch; its scalars, and whether it was done.

    Both are still on the device. If a loss or a gradient of any network isn't finite on any rank, none is updated.
    """
    from data.pictures.transforms import to_float
    from launch.ranks.reduce import all_finite
    from launch.run.schedule import learning_rate
    from stage1_tokenizer.measuring.scores import batch_use

    x_BCHW = to_float(batch.pixels_BCHW.to(device, non_blocking=True))
    gradients, generator = trained.gradients, trained.generator
    result = gradients(generator.module, [learner.module for learner in trained.discriminators], x_BCHW, step)
    share = learning_rate(config.optimizer, step, config.steps, peak=1.0)
    scale = gradients.scale.value if gradients.scale else None
    norms, learners = {"optimizer/gradient_norm": generator.clip(scale)}, [generator]
    for adversary, learner, learns in zip(gradients.adversaries, trained.discriminators, result.trained, strict=True):
        if learns:
            norms |= adversary.named({"optimizer/discriminator_gradient_norm": learner.clip(scale)})
            learners.append(learner)
    losses = [value for name, value in result.metrics.items() if name.startswith("loss/")]
    good = all_finite([*norms.values(), *losses])
    if gradients.scale:
        gradients.scale.update(good)
    for learner in learners:
        learner.descend(share, good)
    trained.ema.update(step)
    scalars: dict[str, Tensor | float] = {**result.metrics, "optimizer/rate_share": share, **norms}
    if result.codes_Bhw is not None:
        scalars |= batch_use(result.codes_Bhw, trained.tokenizer.codebook_size, trained.tokenizer.codebooks)
    return scalars, good


def evaluate(config: TokenizerTrainConfig, trained: Trained, run: Run, step: int) -> dict[str, float]:
    """Measure the averaged weights on held-out samples, each once over all ranks, and show some of them."""
    from data.reading.stream import every_sample

    held_out, shown = config.data.held_out, medium(config)
    assert held_out is not None
    batches = every_sample(
        held_out,
        config.data.transform,
        batch_size=max(1, config.data.batch_size // run.world_size),
        threads=config.data.threads,
        rank=run.rank,
        world_size=run.world_size,
        limit=config.evaluate_samples,
    )
    tokenizer = trained.ema.tokenizer
    figures = shown.measure(tokenizer, heartbeat(batches, run), trained.gradients.terms, config.evaluate_features, run)
    if run.is_main:
        shown.show(run.folder / shown.shown / f"step-{step:09d}", tokenizer, held_out)
    return {f"eval/{name}": value for name, value in figures.items()}


def heartbeat(batches: Iterable[PictureBatch], run: Run) -> Iterator[PictureBatch]:
    """The batches; each tells the watchdog that the rank isn't hung."""
    for batch in batches:
        run.heartbeat()
        yield batch


def with_model(words: Sequence[str]) -> list[str]:
    """The command line, with the model of the tokenizer that --init names before it."""
    if init_of(words) is None:
        return list(words)
    from stage1_tokenizer.training import fine_tuning

    return fine_tuning.with_model(words)


def main() -> int:
    """The command."""
    return train(parse(TokenizerTrainConfig, with_model(sys.argv[1:]), prog="python -m stage1_tokenizer.train"))


if __name__ == "__main__":
    run(main)
