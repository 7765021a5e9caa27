"""The training loop of a prior: steps, evaluations, checkpoints and the export."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from data.codes.batches import CodeBatch
from data.reading.stream import Stream, every_code
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from launch.checkpoints import store as checkpoint
from launch.checkpoints.ending import ending
from launch.command.cli import UserError
from launch.files.outputs import output
from launch.run.runtime import Run
from launch.run.schedule import due, learning_rate
from launch.run.seeding import seed_step
from launch.strategies.base import Strategy, blocks
from launch.strategies.choose import share_out
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.layers.precision import IN_TRAINING, Precision, float32_as
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.measuring.held_out import held_out_figures
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import build_prior
from stage2_prior.priors.code_embeddings import begin_as_vectors
from stage2_prior.priors.fused import install
from stage2_prior.priors.stock import checkpoint_layers
from stage2_prior.priors.unified import UnifiedPrior
from stage2_prior.training.cost import Cost, Utilisation, cost, peak_flops
from stage2_prior.training.optimizer import PriorEma, build_optimizer
from stage2_prior.training.parts import parts_of, tokens_of
from stage2_prior.training.unified import UnifiedSets, unified_figures
from stage2_prior.unified.stream import UnifiedBatch, UnifiedStream

LOOKED_AT, LOOKED_AT_REMOTE = 1000, 100
"""Captions whose length is looked at."""


def fit(
    config: PriorTrainConfig,
    index: ShardIndex | UnifiedSets,
    held_out: ShardIndex | None,
    run: Run,
    raw: Prior,
    strategy: Strategy,
    ema: PriorEma,
    size: Cost,
) -> int:
    """Train from the newest checkpoint to the end or to a signal; the exit code. Raises NotFiniteError."""
    state: dict[str, Any] = {**strategy.state("prior"), "ema": ema.state}
    if isinstance(raw, UnifiedPrior) and raw.balance.normalised:
        state["balance"] = raw.balance
    step = checkpoint.load_latest(run.folder, state, run) or 0
    use = say_size(raw, size, config, run)
    if not isinstance(index, UnifiedSets):
        say_cut(raw, index, run)
    with (
        stream_of(config, index, run) as codes,
        run.progress("train prior", config.steps, unit="steps", start=step) as bar,
    ):
        began = step
        for batch in codes.batches(step):
            stop, last = run.stopping(), step == config.steps
            if held_out and (last or (not stop and due(step, config.evaluate_every, began))):
                run.log(step, evaluate(raw, ema, held_out, run, config))
            if step > began and (last or stop or due(step, config.run.save_every, began)):
                checkpoint.save(run.folder, step, state, run, keep=config.run.keep)
            if last or stop:
                break
            seed_step(config.run.seed, run.rank, step)
            raw.set_progress(step / config.steps)
            scalars, good = train_step(raw, strategy, batch, config, step, run)
            ema.update(step)
            use.step(tokens_of(batch) * run.world_size)
            if (step + 1) % config.run.log_every == 0:
                run.log(step, {"rate/mfu": use.take()}, kind="system")
            run.record(scalars, step=step, samples=config.data.batch_size, good=good)
            step += 1
            bar.advance()
    if step == config.steps:
        export(ema, strategy, config, index, run)
    return ending(run, step, began, config.steps)


def stream_of(config: PriorTrainConfig, index: ShardIndex | UnifiedSets, run: Run) -> Stream | UnifiedStream:
    """This rank's batches."""
    if isinstance(index, UnifiedSets):
        return index.stream(config, run)
    return Stream(config.data, seed=run.data_seed, rank=run.rank, world_size=run.world_size)


def fresh(config: PriorTrainConfig, index: ShardIndex | UnifiedSets) -> Prior:
    """A prior with its first weights; those of codes may come from the tokenizer's codebook."""
    if isinstance(index, UnifiedSets):
        return index.fresh(config)
    source = CodeSource.of_index(index, config.data.index)
    by_codebook, quantizer = config.model.code_embeddings == "codebook", None
    if source.form == "scales" or by_codebook:
        quantizer = Tokenizer.from_pretrained(str(config.tokenizer)).quantizer
    prior = build_prior(config.model, source, index.classes, quantizer)
    if quantizer is not None and by_codebook:
        begin_as_vectors(prior, quantizer.vectors())
    return prior


def build(
    config: PriorTrainConfig, index: ShardIndex | UnifiedSets, run: Run
) -> tuple[Prior, Strategy, PriorEma, Cost]:
    """The prior, the strategy with which the ranks train it, its averaged weights, and its cost."""
    raw = fresh(config, index)
    size = cost(raw)  # while every rank still has the whole model
    if config.run.kernels == "auto":
        install(raw, run.device)
    sharded = run.strategy if run.world_size > 1 else "ddp"
    if config.activation_checkpointing:
        for transformer in raw.transformers:
            checkpoint_layers(transformer, reentrant=sharded == "zero3")
    if config.compile:
        compile_losses(raw, sharded)
    optimizer, parts = config.optimizer, config.micro_batches(run.world_size)
    strategy = share_out(raw, partial(build_optimizer, config=optimizer), run, clip=optimizer.clip, parts=parts)
    strategy.module.train()
    return raw, strategy, PriorEma(strategy, optimizer.ema_decay), size


def compile_losses(raw: Prior, strategy: str) -> None:
    """Compile what a prior computes from its inputs to its losses; with fsdp2, which works between blocks, these."""
    if strategy == "zero3":
        raise UserError("compile=true is not supported with run.strategy=zero3: remove it, or use fsdp2 or zero2")
    if strategy == "fsdp2":
        for transformer in raw.transformers:
            for block in blocks(transformer):
                block.compile()
    else:
        raw.losses = torch.compile(raw.losses)  # type: ignore[method-assign]


def train_step(
    raw: Prior, strategy: Strategy, batch: CodeBatch | UnifiedBatch, config: PriorTrainConfig, step: int, run: Run
) -> tuple[dict[str, Tensor | float], Tensor | None]:
    """One step on this rank's samples of a batch; its scalars, still on the device, and whether it was done."""
    parts, count = parts_of(raw, batch, run), config.micro_batches(run.world_size)
    own = parts.own
    for number in range(count):
        rows = slice(own * number // count, own * (number + 1) // count)
        place = slice(run.rank * own + rows.start, run.rank * own + rows.stop)
        with (
            float32_as(IN_TRAINING[config.run.tf32]),
            strategy.part(last=number == count - 1),
            raw.sample_noise.of_batch(config.run.seed, step, own * run.world_size, place),
        ):
            strategy.backward(parts.loss(strategy, rows))
    sums, losses = parts.sums()
    rate = learning_rate(config.optimizer, step, config.steps)
    norm, good = strategy.descend(rate, config.optimizer.clip, [sums])
    return losses | {"optimizer/gradient_norm": norm, "optimizer/learning_rate": rate}, good


def evaluate(
    raw: Prior, ema: PriorEma, index: ShardIndex, run: Run, config: PriorTrainConfig | None = None
) -> dict[str, float]:
    """Figures of the averaged weights on held-out codes: eval/bits_per_code and eval/accuracy.

    On GPUs they are computed in run.precision, on CPUs in float32. Those of a unified prior are `unified_figures`.
    """
    precision: Precision = "bf16" if run.config.precision == "bf16" and run.device.type == "cuda" else "fp32"
    with ema.applied(), torch.compiler.set_stance("force_eager"):
        raw.eval()
        if isinstance(raw, UnifiedPrior):
            assert config is not None
            figures = unified_figures(raw, index, config, run)
        else:
            figures = held_out_figures(raw, index, run, key="data.held_out", precision=precision)
        raw.train()
    return {f"eval/{name}": value for name, value in figures.items()}


def say_size(prior: Prior, size: Cost, config: PriorTrainConfig, run: Run) -> Utilisation:
    """Print and log the prior's size and cost; returns the meter of model FLOP utilisation."""
    peak, origin = peak_flops(run.device, config.run.precision)
    if isinstance(prior, UnifiedPrior):
        knows, unit = ", ".join(f"{count} ids of {name}" for name, count in prior.vocabulary.kinds.items()), "token"
    else:
        knows, unit = f"{len(prior.vocabulary.classes)} classes", "code"
    run.say(
        f"prior: {config.model.kind}, {size.parameters / 1e6:.2f} M parameters, {prior.source}, {knows}, "
        f"{size.flops_per_code / 1e6:.1f} MFLOP a {unit}; "
        f"rate/mfu is of {peak / 1e12:.3g} TFLOP/s a device ({origin})"
    )
    logged = {"model/parameters": size.parameters, "model/flops_per_code": size.flops_per_code}
    run.log(0, {**logged, "model/peak_flops": peak}, kind="system")
    return Utilisation(size.flops_per_code, peak * run.world_size)


def say_cut(prior: Prior, index: ShardIndex, run: Run) -> None:
    """Say how many captions are longer than the prior takes, of some that are evenly spaced in the set."""
    if not prior.condition.texts or not run.is_main:
        return
    try:
        seen = every_code(index, batch_size=64, limit=LOOKED_AT_REMOTE if index.remote else LOOKED_AT)
        texts = [text for batch in seen for text in batch.captions if text]
    except UserError:
        return  # of a damaged sample, which the training counts and tells
    if cut := prior.condition.cut(texts):
        run.say(f"warning: captions: {cut}; {len(texts)} of {index.meta.get('captions')} were looked at")


def export(
    ema: PriorEma, strategy: Strategy, config: PriorTrainConfig, index: ShardIndex | UnifiedSets, run: Run
) -> None:
    """Write RUN/prior: the averaged weights in stock form, with a description of the codes."""
    weights = {}
    with ema.applied():
        for name, weight in strategy.whole_weights():
            if run.is_main:
                weights[name] = weight.to("cpu", copy=True)
    if run.is_main:
        prior = fresh(config, index)
        assert weights.keys() == dict(prior.named_parameters()).keys()
        prior.load_state_dict(weights, strict=False)  # buffers and tied weights are already in place
        with output(run.folder / "prior"):
            data = Identity.of(index.training[0] if isinstance(index, UnifiedSets) else index).brief()
            prior.eval().save_pretrained(run.folder / "prior", steps=config.steps, data=data)
    run.say(f"prior exported to {run.folder / 'prior'}")
