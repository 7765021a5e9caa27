"""Section 4: tokens a second of LlamaGen-B's shape beside `generate` and LlamaGen's own loop, and its training step."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters

from stage2_prior.codes.source import CodeSource
from stage2_prior.config.model import PriorModelConfig
from tests.benchmarks import sampler
from tests.gpu.sections.bench import Bench
from tests.gpu.sections.parts import StageTwo
from tests.gpu.sections.peers import gathered_peers
from tests.gpu.sections.steps import used
from tests.gpu.sections.timing import in_turns

B = PriorModelConfig(preset="LlamaGen-B")
TINY = PriorModelConfig(layers=2, width=32, heads=2)
CODES = CodeSource("0" * 64, 16384, (16, 16), {})
PAIRS = tuple((batch, guidance) for batch in (8, 64, 1) for guidance in (3.0, 1.0))
"""Batches and guidance, the pair with a bar first."""
KEPT = 5.0
"""Seconds kept for what was begun last."""
TRAINING = "training step of LlamaGen-B, 32 samples, bf16"
SAMPLES = 32
"""Of a training step."""


def sampling(bench: Bench) -> None:
    """Training steps first, as they are short; then each batch, plain and guided."""
    torch._dynamo.config.automatic_dynamic_shapes = False
    bench.part(TRAINING, "all", partial(training, bench), seconds=15)
    tidy(bench)
    pairs = PAIRS[:2] if bench.rehearse else PAIRS  # guided and not; other batches go through the same code
    for number, (batch, guidance) in enumerate(pairs):
        seconds = (bench.left() - KEPT) / (len(pairs) - number)
        one = partial(measured, bench, batch, guidance, seconds, gathered_peers(bench))
        bench.part(group_of(batch, guidance), "all", one, seconds=KEPT)
        tidy(bench)
    skips = counters["inductor"]["cudagraph_skips"]
    bench.row("CUDA graphs", "steps that inductor ran without one", count=skips)


def group_of(batch: int, guidance: float) -> str:
    """The title of a table."""
    return f"sampling, batch {batch}, " + (f"guidance {guidance:g}" if guidance != 1 else "no guidance")


def tidy(bench: Bench) -> None:
    """Give back what is no longer used."""
    gc.collect()
    if bench.device == "cuda":
        torch.cuda.empty_cache()


def sizes(bench: Bench) -> tuple[PriorModelConfig, CodeSource]:
    """The model, and 16×16 of 16,384 codes; a small model and fewer codes in a rehearsal."""
    return (TINY, replace(CODES, codebook_size=64, grid=(2, 2))) if bench.rehearse else (B, CODES)


def measured(bench: Bench, batch: int, guidance: float, seconds: float, peers: Path | None) -> None:
    """A row for each contestant, and how many times as fast the fastest of ours is."""
    group, model, source = group_of(batch, guidance), *sizes(bench)
    shape = {"side": source.grid[0], "codes": source.codebook_size}
    shape |= {"layers": model.layers, "width": model.width, "heads": model.heads}
    found = sampler.measure(bench.device, [batch], [guidance], seconds, shape, peers)
    rates = {one["name"]: one["tokens_per_second"] for one in found if one.get("tokens_per_second")}
    for one in found:
        bench.row(group, **{key: value for key, value in one.items() if key not in ("batch", "guidance")})
    ours = [name for name in rates if name.startswith("ours")]
    fastest = max(ours, key=lambda name: rates[name], default=None)
    for name, rate in rates.items():
        if fastest is not None and name not in ours:
            bench.row(f"times as fast, {group}", name, ours=fastest, times=rates[fastest] / rate)


def training(bench: Bench) -> None:
    """LlamaGen-B's training step, eager and compiled, in turns: samples a second, and the share of the card's peak."""
    (model, source), samples = sizes(bench), SAMPLES
    with bench.folder() as folder:
        made: dict[str, StageTwo] = {}

        def make(name: str) -> Callable[[], Any]:
            settings: dict[str, Any] = {"classes": 1000, "compile": name == "compiled"}
            made[name] = StageTwo(model, source, folder / name, bench.device, samples, **settings)
            return made[name]

        names = ("eager", "compiled")
        taken = in_turns({name: partial(make, name) for name in names}, bench.device, warm=2 if bench.rehearse else 3)
        for name, values in taken.items():
            if values.error or not values.seconds:
                bench.row(TRAINING, name, error=values.error)
                continue
            flop = made[name].cost.flops_per_code * source.positions * samples
            numbers = {"ms": values.median * 1e3, "samples_per_s": samples / values.median}
            numbers |= used(bench, flop / 1e12 / values.median)
            bench.row(TRAINING, name, **numbers, peak_gib=values.peak_gib, warming_s=values.warming_s)
