"""Train a tokenizer: `accelerate launch -m stage1_tokenizer.train --config launch/recipes/NAME/tokenizer.yaml …`.

RUN/checkpoints/   tokenizer, discriminator, both optimizers, averaged weights (launch.checkpoint)
RUN/pictures/      held-out pictures beside their reconstructions, at each evaluation
RUN/metrics.jsonl  loss/…, gan/…, codes/…, rate/…; eval/psnr, eval/lpips, eval/codebook_usage, …

Legend: B batch (this rank's part), C channels, H W pixels, h w latent grid, K codes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.cli import UserError, parse, run
from stage1_tokenizer.config import TokenizerTrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from data.stream import Batch
    from launch.checkpoint import Stateful
    from launch.runtime import Run
    from stage1_tokenizer.ema import Ema
    from stage1_tokenizer.optimization import Learner
    from stage1_tokenizer.perceptual import LPIPS
    from stage1_tokenizer.step import OneForwardStep
    from stage1_tokenizer.tokenizer import Tokenizer

MAY_CHANGE = (
    "evaluate_every",
    "evaluate_samples",
    "data.held_out",
    "data.threads",
    "data.read_ahead",
    "data.micro_batch",
)
"""Settings beside launch.settings.FREE_KEYS on which the weights don't depend."""

PICTURES = 16
"""Held-out pictures shown at each evaluation."""


def train(config: TokenizerTrainConfig) -> int:
    """Train, or go on training, to `config.steps`; the exit code (0, or STOPPED after a signal).

    Raises UserError for missing data or LPIPS weights, before any device is taken.
    """
    perceptual = check(config)
    from data.stream import PictureStream
    from launch import checkpoint
    from launch.runtime import seed_step, start_run

    with start_run(config, config.run, may_change=may_change(config)) as this:
        parts = build(config, perceptual, this)
        step = checkpoint.load_latest(this.folder, parts.state, this) or 0
        if step >= config.steps:
            this.say(f"{this.folder} is finished: it holds step {step}, nothing is left to do")
            return 0
        began, held_out = step, config.data.held_out
        with (
            PictureStream(config.data, seed=config.run.seed, rank=this.rank, world_size=this.world_size) as pictures,
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
                scalars = train_step(config, parts, batch, step, this.device)
                this.record(scalars, step=step, samples=config.data.batch_size)
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
    from data.index import ShardIndex
    from data.indexing import check_present
    from stage1_tokenizer.perceptual import build_perceptual

    if not config.data.index:
        raise UserError("data.index is not set: give the path or URL of a shard index")
    for path in (config.data.index, *config.data.mixture, config.data.held_out):
        if not path:
            continue
        index = ShardIndex.load(path)
        if index.kind != "pictures":
            raise UserError(f"{path} holds {index.kind}, not pictures: give an index of pictures")
        check_present(index, int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    return build_perceptual(config.loss.perceptual)


def may_change(config: TokenizerTrainConfig) -> tuple[str, ...]:
    """Settings that a continued run may change; the number of steps too, where the learning rate doesn't know it."""
    return (*MAY_CHANGE, "steps") if config.optimizer.decay == "constant" else MAY_CHANGE


@dataclass
class Parts:
    """All that a run trains, and what computes its gradients."""

    tokenizer: Tokenizer
    """The tokenizer itself."""
    generator: Learner
    """The tokenizer, with its optimizer."""
    discriminator: Learner | None
    """The discriminator, with its optimizer; None where the adversarial term has no weight."""
    ema: Ema
    """The averaged weights."""
    gradients: OneForwardStep
    """Leaves the gradients of a batch in both."""

    @property
    def state(self) -> dict[str, Stateful]:
        """Everything stateful, by the name of its file in a checkpoint; codes' statistics are the tokenizer's."""
        found: dict[str, Stateful] = {
            "tokenizer": self.tokenizer,
            "ema": self.ema,
            "tokenizer_optimizer": self.generator.optimizer,
        }
        if self.discriminator is not None:
            found["discriminator"] = self.discriminator.raw
            found["discriminator_optimizer"] = self.discriminator.optimizer
        if self.gradients.config.adversarial.lecam:
            found["lecam"] = self.gradients.lecam
        return found


def build(config: TokenizerTrainConfig, perceptual: LPIPS | None, this: Run) -> Parts:
    """Networks, optimizers and averages on the run's device, the same on every rank."""
    from stage1_tokenizer.discriminator import Discriminator
    from stage1_tokenizer.ema import Ema
    from stage1_tokenizer.optimization import Learner
    from stage1_tokenizer.step import OneForwardStep
    from stage1_tokenizer.tokenizer import Tokenizer

    model, adversarial, optimizer = config.model, config.loss.adversarial, config.optimizer
    tokenizer = Tokenizer(model, config.data.transform)
    generator = Learner.build(tokenizer, optimizer, optimizer.learning_rate, this)
    judge = None
    if adversarial.weight:
        network = Discriminator(adversarial, model.in_channels, model.spatial_dims)
        peak = optimizer.discriminator_learning_rate or optimizer.learning_rate
        judge = Learner.build(network, optimizer, peak, this)
    gradients = OneForwardStep(
        config.loss,
        perceptual.to(this.device) if perceptual is not None else None,
        autocast=this.accelerator.autocast,
        backward=this.accelerator.backward,
        micro_batch=config.data.micro_batch,
    )
    weights = sum(parameter.numel() for parameter in tokenizer.parameters())
    judging = sum(parameter.numel() for parameter in judge.raw.parameters()) if judge else 0
    this.say(f"tokenizer: {weights / 1e6:.2f} M parameters, discriminator: {judging / 1e6:.2f} M")
    return Parts(tokenizer, generator, judge, Ema(tokenizer, optimizer.ema_decay), gradients)


def train_step(
    config: TokenizerTrainConfig, parts: Parts, batch: Batch, step: int, device: torch.device
) -> dict[str, Tensor | float]:
    """One step of both optimizers on this rank's part of a batch; its scalars, still on the device."""
    from data.transforms import to_float
    from stage1_tokenizer.measures import batch_use
    from stage1_tokenizer.optimization import rate_share

    x_BCHW = to_float(batch.pixels_BCHW.to(device, non_blocking=True))
    judge, clip = parts.discriminator, config.optimizer.clip
    done = parts.gradients(parts.generator.module, judge.module if judge else None, x_BCHW, step)
    share = rate_share(config.optimizer, step, config.steps)
    scalars: dict[str, Tensor | float] = {**done.metrics, "optimizer/rate_share": share}
    scalars["optimizer/gradient_norm"] = parts.generator.descend(share, clip)
    if judge and done.discriminator_trained:
        scalars["optimizer/discriminator_gradient_norm"] = judge.descend(share, clip)
    parts.ema.update(parts.tokenizer, step)
    if done.codes_Bhw is not None:
        scalars |= batch_use(done.codes_Bhw, parts.tokenizer.codebook_size, parts.tokenizer.codebooks)
    return scalars


def evaluate(config: TokenizerTrainConfig, parts: Parts, this: Run, step: int) -> dict[str, float]:
    """Measure the averaged weights on held-out pictures, every one once over all ranks, and picture some of them."""
    from data.stream import every_sample
    from stage1_tokenizer.evaluate import measure
    from stage1_tokenizer.pictures import save_pictures

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
    tokenizer = parts.ema.tokenizer
    found = measure(tokenizer, alive(batches, this), parts.gradients.perceptual, device=this.device, total=this.sum)
    if this.is_main:
        save_pictures(this.folder / "pictures" / f"step-{step:09d}.png", tokenizer, held_out, PICTURES)
    return {f"eval/{name}": value for name, value in found.items()}


def alive(batches: Iterable[Batch], this: Run) -> Iterator[Batch]:
    """The batches, each a sign of life: a long evaluation is no hang."""
    for batch in batches:
        this.alive()
        yield batch


def main() -> int:
    """The command."""
    return train(parse(TokenizerTrainConfig, prog="python -m stage1_tokenizer.train"))


if __name__ == "__main__":
    run(main)
