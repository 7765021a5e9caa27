"""Train a tokenizer: `accelerate launch -m stage1_tokenizer.train --config launch/recipes/NAME/tokenizer.yaml …`.

RUN/checkpoints/   tokenizer, discriminator, both optimizers, averaged weights (launch.checkpoint)
RUN/pictures/      held-out pictures beside their reconstructions, at each evaluation
RUN/metrics.jsonl  loss/…, gan/…, codes/…, rate/…; eval/psnr, eval/lpips, eval/codebook_usage, …

Legend: B batch (this rank's part), C channels, H W pixels, h w latent grid, K codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from data.shards.loading import load_index
from launch.command.cli import UserError, parse, run
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.training.fine_tuning import begin, check_init, with_model

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from data.pictures.batches import PictureBatch
    from launch.run.runtime import Run
    from stage1_tokenizer.losses.lpips import LPIPS
    from stage1_tokenizer.training.trained import Parts

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
"""Settings beside launch.config.FREE_KEYS on which the weights don't depend."""

PICTURES = 16
"""Held-out pictures shown at each evaluation."""


def train(config: TokenizerTrainConfig) -> int:
    """Train, or go on training, to `config.steps`; the exit code (0, or STOPPED after a signal).

    Raises UserError for missing data or LPIPS weights, before any device is taken.
    """
    perceptual = check(config)
    from launch.checkpoints import store as checkpoint
    from launch.run.starting import start_run, until_done
    from stage1_tokenizer.training.trained import build

    with start_run(config, config.run, free=free(config)) as this:

        def attempt() -> int:
            parts = build(config, perceptual, this)
            step = checkpoint.load_latest(this.folder, parts.state, this)
            if step is None:
                begin(config, parts, this)
            return fit(config, parts, this, step or 0)

        return until_done(this, attempt)


def fit(config: TokenizerTrainConfig, parts: Parts, this: Run, step: int) -> int:
    """Train from `step` to the end or to a signal; the exit code. Raises NotFiniteError after too many bad updates."""
    from data.reading.stream import Stream
    from launch.checkpoints import store as checkpoint
    from launch.run.seeding import seed_step
    from stage1_tokenizer.training.monitor import Monitor

    if step >= config.steps:
        this.say(f"{this.folder} is finished: it holds step {step}, nothing is left to do")
        return 0
    began, held_out = step, config.data.held_out
    monitor = Monitor.of(config, parts.tokenizer, this.world_size)
    with (
        Stream(config.data, seed=this.data_seed, rank=this.rank, world_size=this.world_size) as pictures,
        this.progress("train tokenizer", config.steps, unit="steps", start=step) as bar,
    ):
        for batch in pictures.batches(step):
            stop, last = this.stopping(), step == config.steps
            if held_out and (last or (not stop and due(step, config.evaluate_every, began))):
                this.log(step, evaluate(config, parts, this, step))
            if last or stop or due(step, config.run.save_every, began):
                checkpoint.save(this.folder, step, parts.state, this, keep=config.run.keep)
            if last or stop:
                break
            seed_step(config.run.seed, this.rank, step)
            scalars, good = train_step(config, parts, batch, step, this.device)
            logged = this.record(scalars, step=step, samples=config.data.batch_size, good=good)
            this.note(step, monitor.look(logged or {}))
            step += 1
            bar.advance()
    if stop and not last:
        this.say(f"stopped at step {step}; start the same command again to go on")
    return 0 if last else this.exit_code


def due(step: int, every: int, began: int) -> bool:
    """Whether what is done every so many steps (0: never) is due at `step`, in a run continued from `began`."""
    return step > began and every > 0 and step % every == 0


def check(config: TokenizerTrainConfig) -> LPIPS | None:
    """Look for everything the run needs from elsewhere; LPIPS, or None where its weight is 0."""
    from data.shards.loading import check_present
    from stage1_tokenizer.discriminators import check_discriminator
    from stage1_tokenizer.losses.lpips import build_perceptual

    if not config.data.index:
        raise UserError("data.index is not set: give the path or URL of a shard index")
    for path in (config.data.index, *config.data.mixture, config.data.held_out):
        if not path:
            continue
        index = load_index(path)
        if index.kind != "pictures":
            raise UserError(f"{path} holds {index.kind}, not pictures: give an index of pictures")
        check_present(index, int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    check_init(config)
    if config.evaluate_features != "none":
        from stage1_tokenizer.measuring.features import load_network

        load_network(config.evaluate_features)
    check_discriminator(config.loss.adversarial, config.data.batch_size, int(os.environ.get("WORLD_SIZE", "1")))
    return build_perceptual(config.loss.perceptual)


def free(config: TokenizerTrainConfig) -> tuple[str, ...]:
    """Settings that a continued run may change; the number of steps too, where the learning rate doesn't know it."""
    return (*FREE, "steps") if config.optimizer.decay == "constant" else FREE


def train_step(
    config: TokenizerTrainConfig, parts: Parts, batch: PictureBatch, step: int, device: torch.device
) -> tuple[dict[str, Tensor | float], Tensor]:
    """One step of both optimizers on this rank's part of a batch; its scalars, and whether it was done.

    Both are still on the device. Where a loss or a gradient of either network isn't finite on any rank, neither moves.
    """
    from data.pictures.transforms import to_float
    from launch.ranks.reduce import all_finite
    from stage1_tokenizer.measuring.scores import batch_use
    from stage1_tokenizer.training.learner import rate_share

    x_BCHW = to_float(batch.pixels_BCHW.to(device, non_blocking=True))
    judge, clip = parts.discriminator, config.optimizer.clip
    done = parts.gradients(parts.generator.module, judge.module if judge else None, x_BCHW, step)
    share = rate_share(config.optimizer, step, config.steps)
    scaling = parts.gradients.scale
    scale = scaling.value if scaling else None
    norms = {"optimizer/gradient_norm": parts.generator.clip(clip, scale)}
    if judge and done.discriminator_trained:
        norms["optimizer/discriminator_gradient_norm"] = judge.clip(clip, scale)
    good = all_finite([*norms.values(), *(value for name, value in done.metrics.items() if name.startswith("loss/"))])
    if scaling:
        scaling.update(good)
    parts.generator.descend(share, good)
    if judge and done.discriminator_trained:
        judge.descend(share, good)
    parts.ema.update(parts.tokenizer, step)
    scalars: dict[str, Tensor | float] = {**done.metrics, "optimizer/rate_share": share, **norms}
    if done.codes_Bhw is not None:
        scalars |= batch_use(done.codes_Bhw, parts.tokenizer.codebook_size, parts.tokenizer.codebooks)
    return scalars, good


def evaluate(config: TokenizerTrainConfig, parts: Parts, this: Run, step: int) -> dict[str, float]:
    """Measure the averaged weights on held-out pictures, every one once over all ranks, and picture some of them."""
    from data.reading.stream import every_sample
    from stage1_tokenizer.measuring.features import load_network
    from stage1_tokenizer.measuring.gathering import EvaluationSums
    from stage1_tokenizer.measuring.scores import measure
    from stage1_tokenizer.measuring.side_by_side import save_pictures

    held_out = config.data.held_out
    assert held_out is not None
    batches = every_sample(
        held_out,
        config.data.transform,
        batch_size=max(1, config.data.batch_size // this.world_size),
        threads=config.data.threads,
        rank=this.rank,
        world_size=this.world_size,
        limit=config.evaluate_samples,
    )
    tokenizer, perceptual = parts.ema.tokenizer, parts.gradients.perceptual
    network = load_network(config.evaluate_features, lpips=perceptual)
    sums = EvaluationSums(network.to(this.device), this.device) if network is not None else None
    shown = alive(batches, this)
    found = measure(tokenizer, shown, perceptual, device=this.device, total=this.sum, sums=sums)
    if sums is not None:
        found |= sums.distances(this)
    if this.is_main:
        save_pictures(this.folder / "pictures" / f"step-{step:09d}.png", tokenizer, held_out, PICTURES)
    return {f"eval/{name}": value for name, value in found.items()}


def alive(batches: Iterable[PictureBatch], this: Run) -> Iterator[PictureBatch]:
    """The batches, each a sign of life: a long evaluation is no hang."""
    for batch in batches:
        this.heartbeat()
        yield batch


def main() -> int:
    """The command."""
    return train(parse(TokenizerTrainConfig, with_model(sys.argv[1:]), prog="python -m stage1_tokenizer.train"))


if __name__ == "__main__":
    run(main)
