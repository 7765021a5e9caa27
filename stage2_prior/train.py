"""Train a prior: `accelerate launch -m stage2_prior.train --config launch/recipes/NAME/prior.yaml --tokenizer DIR …`.

Shapes: B batch (this rank's part), N codes of a picture.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from data.cli import parse, run
from data.index import ShardIndex
from data.stream import CodeBatch, CodeStream, every_code
from launch import checkpoint
from launch.runtime import Run, seed_step, start_run
from stage2_prior.codes import CodeSource
from stage2_prior.config import PriorTrainConfig
from stage2_prior.cost import Utilisation, cost, dry_run, peak_flops
from stage2_prior.optimization import Ema, build_optimizer, learning_rate, set_rate
from stage2_prior.priors import build_prior

if TYPE_CHECKING:
    from stage2_prior.prior import Prior

MAY_CHANGE = (
    "evaluate_every",
    "data.threads",
    "data.read_ahead",
    "activation_checkpointing",
    "compile",
    "dry_run",
)
"""Keys that a continued run may change."""


def train(config: PriorTrainConfig) -> int:
    """Train, or go on training, to `config.steps` and export RUN/prior; the exit code (0, or STOPPED by a signal)."""
    if config.dry_run:
        return print_cost(config)
    index = checked_codes(config)
    with start_run(config, config.run, may_change=MAY_CHANGE) as this:
        raw, ema, model, optimizer = build(config, index, this)
        state: dict[str, checkpoint.Stateful] = {"prior": raw, "ema": ema, "optimizer": optimizer}
        step = checkpoint.load_latest(this.folder, state, this) or 0
        use = say_size(raw, config, this)
        with (
            CodeStream(config.data, seed=config.run.seed, rank=this.rank, world_size=this.world_size) as codes,
            this.progress("train prior", config.steps, unit="steps", start=step) as bar,
        ):
            began = step
            for batch in codes.batches(step):
                stop, last = this.stopping(), step == config.steps
                if config.data.held_out and not stop and (last or due(step, config.evaluate_every, began)):
                    this.log(step, {"eval/bits_per_code": bits_per_code(ema.model, config.data.held_out, this)})
                if step > began and (last or stop or due(step, config.run.save_every, began)):
                    checkpoint.save(this.folder, step, state, this, keep=config.run.keep)
                if last or stop:
                    break
                seed_step(config.run.seed, this.rank, step)
                raw.set_progress(step / config.steps)
                parts = train_step(model, optimizer, batch, config, step, this)
                ema.update(raw, step)
                use.step()
                if (step + 1) % config.run.log_every == 0:
                    this.log(step, {"rate/mfu": use.take()}, kind="system")
                this.record(parts, step=step, samples=config.data.batch_size)
                step += 1
                bar.advance()
        if step == config.steps and this.is_main:
            export(ema.model, config, index, this)
        return this.exit_code


def due(step: int, every: int, began: int) -> bool:
    """Whether something done every so many steps is due before `step`, in a run (or its continuation) from `began`."""
    return step > began and step % every == 0


def checked_codes(config: PriorTrainConfig) -> ShardIndex:
    """The index to train on, once it is sure to hold codes of config.tokenizer, and data.held_out too."""
    from stage1_tokenizer import Tokenizer

    index = ShardIndex.load(config.data.index)
    source = CodeSource.of_index(index, config.data.index)
    source.must_be_of(Tokenizer.from_pretrained(config.tokenizer).fingerprint, "tokenizer", config.tokenizer)
    if config.data.held_out:
        held_out = ShardIndex.load(config.data.held_out)
        other = CodeSource.of_index(held_out, config.data.held_out, "data.held_out")
        source.must_equal(other, "data.held_out", config.data.held_out)
    return index


def build(
    config: PriorTrainConfig, index: ShardIndex, this: Run
) -> tuple[Prior, Ema[Prior], nn.Module, torch.optim.Optimizer]:
    """The prior, its averaged weights, the prior as the ranks train it together, and the optimizer."""
    raw = build_prior(config.model, CodeSource.of_index(index, config.data.index), index.classes)
    raw.to(this.device)
    ema = Ema(raw, config.optimizer.ema_decay)
    if config.activation_checkpointing:
        raw.lm.activation_checkpointing_enable({"use_reentrant": False})
    if config.compile:
        raw.lm.compile()
    model, optimizer = this.accelerator.prepare(raw, build_optimizer(raw, config.optimizer))
    model.train()
    return raw, ema, model, optimizer


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: CodeBatch,
    config: PriorTrainConfig,
    step: int,
    this: Run,
) -> dict[str, Tensor | float]:
    """One optimizer step on this rank's part of a batch; its scalars, still on the device."""
    code_BN = batch.idx_Bhw.flatten(1).to(this.device, non_blocking=True)
    label_B = batch.label_B.to(this.device, non_blocking=True)
    parts = config.optimizer.accumulate
    sums = torch.zeros(2, device=this.device)
    for part in range(parts):
        with contextlib.ExitStack() as stack:
            if part < parts - 1:
                stack.enter_context(this.accelerator.no_sync(model))
            loss, nats = model(code_BN[part::parts], label_B[part::parts])
            this.accelerator.backward(loss / parts)
        sums += torch.stack([loss.detach(), nats]) / parts
    norm = this.accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm or math.inf)
    rate = learning_rate(config.optimizer, step, config.steps)
    set_rate(optimizer, rate)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {
        "loss/total": sums[0],
        "loss/nll_bits": sums[1] / math.log(2),
        "gradient_norm": norm,
        "learning_rate": rate,
    }


@torch.inference_mode()
def bits_per_code(prior: Prior, index: str, this: Run | None = None, batch_size: int = 64) -> float:
    """The prior's mean -log2 p(code) over every code of an index, each once, over all ranks."""
    rank, world_size = (this.rank, this.world_size) if this else (0, 1)
    device = next(prior.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for batch in every_code(index, batch_size=batch_size, rank=rank, world_size=world_size):
        code_BN = batch.idx_Bhw.flatten(1).to(device)
        token_B = prior.vocabulary.class_tokens(batch.label_B.to(device))
        sums[0] += prior.nats(code_BN, token_B).double().sum()
        sums[1] += code_BN.numel()
    nats, count = (this.sum(sums) if this else sums).tolist()
    return nats / max(count, 1) / math.log(2)


def say_size(prior: Prior, config: PriorTrainConfig, this: Run) -> Utilisation:
    """Print and log what the prior is and what it costs; what measures how well the devices are used."""
    found = cost(prior, config.model, prior.source.positions)
    peak, origin = peak_flops(this.device, config.run.precision)
    height, width = prior.source.grid
    this.say(
        f"prior: {config.model.kind}, {found.parameters / 1e6:.2f} M parameters, {prior.source.codebook_size} codes on "
        f"{height}×{width}, {len(prior.vocabulary.classes)} classes, {found.flops_per_code / 1e6:.1f} MFLOP a code; "
        f"rate/mfu is of {peak / 1e12:.3g} TFLOP/s a device ({origin})"
    )
    sizes = {"model/parameters": found.parameters, "model/flops_per_code": found.flops_per_code}
    this.log(0, {**sizes, "model/peak_flops": peak}, kind="system")
    step = found.flops_per_code * prior.source.positions * config.data.batch_size
    return Utilisation(step, peak * this.world_size)


def print_cost(config: PriorTrainConfig) -> int:
    """What --dry_run prints: from the codes if they are there, else for 16×16 of 16384 codes and 1000 classes."""
    if Path(config.data.index).exists():
        index = ShardIndex.load(config.data.index)
        print(dry_run(config, CodeSource.of_index(index, config.data.index), index.classes))
    else:
        note = f" (assumed: {config.data.index} is not there)"
        print(dry_run(config, CodeSource("", 16384, (16, 16), {}), list(map(str, range(1000))), note))
    return 0


def export(prior: Prior, config: PriorTrainConfig, index: ShardIndex, this: Run) -> None:
    """Write RUN/prior: the averaged weights in stock form, with what the codes are."""
    prior.save_pretrained(this.folder / "prior", steps=config.steps, data=index.name)
    this.say(f"prior exported to {this.folder / 'prior'}")


def main() -> int:
    """The command."""
    arguments = [re.sub("^--dry-run", "--dry_run", argument) for argument in sys.argv[1:]]
    return train(parse(PriorTrainConfig, arguments, prog="python -m stage2_prior.train"))


if __name__ == "__main__":
    run(main)
