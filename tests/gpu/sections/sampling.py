"""Section 4: tokens a second of LlamaGen-B's shape beside `generate` and LlamaGen's own loop, and its training step."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._dynamo.utils import counters

from stage2_prior.codes.source import CodeSource
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import build_prior
from tests.gpu.sections.bench import Bench
from tests.gpu.sections.parts import StageTwo
from tests.gpu.sections.peers import gathered_peers
from tests.gpu.sections.steps import used
from tests.gpu.sections.timing import in_turns

B = PriorModelConfig(preset="LlamaGen-B")
TINY = PriorModelConfig(layers=2, width=32, heads=2)
CODES = CodeSource("0" * 64, 16384, (16, 16), {})
BATCHES = (8, 64, 1)
"""The one with a bar first."""
SAMPLES = 32
"""Of a training step."""
GUIDANCE = 3.0
OURS = {"ours, eager": "0", "ours, graphs": "1", "ours, graphs, compiled": "1"}
"""Our forms, each with its own prior, which keeps its graphs from turn to turn; VQLOOM_CUDA_GRAPHS for each."""


def sampling(bench: Bench) -> None:
    """Training steps first, as they are short; then each batch, plain and guided."""
    torch._dynamo.config.automatic_dynamic_shapes = False
    bench.part("training step of LlamaGen-B, 32 samples, bf16", "all", partial(training, bench), seconds=15)
    tidy(bench)
    priors = {name: drawn_prior(bench, compiled="compiled" in name) for name in OURS}
    for batch in BATCHES:
        for guidance in (GUIDANCE, 1.0):
            group = group_of(batch, guidance)
            bench.part(group, "all", partial(measured, bench, priors, batch, guidance), seconds=10)
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


def drawn_prior(bench: Bench, compiled: bool) -> Prior:
    """A prior with random weights in bf16, as samples are usually drawn on GPUs."""
    torch.manual_seed(0)
    prior = build_prior(*sizes(bench), tuple(map(str, range(1000)))).eval()
    with torch.no_grad():
        for weight in prior.parameters():
            if weight.ndim == 2:
                weight.mul_(3.0)  # far enough from uniform that drawing is what it usually is
    prior.compiled_steps = compiled
    return prior.to(bench.device, torch.bfloat16)


def measured(bench: Bench, priors: dict[str, Prior], batch: int, guidance: float) -> None:
    """All contestants in turns; a row for each, and how many times as fast the fastest of ours is."""
    forms = contestants(bench, priors, batch, guidance)
    group = group_of(batch, guidance)
    with torch.inference_mode():
        taken = in_turns(forms, bench.device, turns=2 if bench.rehearse else 3, steps=1, warm=2)
    tokens = batch * sizes(bench)[1].positions
    rates = {name: tokens / values.median for name, values in taken.items() if values.seconds}
    for name, values in taken.items():
        numbers = {"tokens_per_s": rates[name], "warming_s": values.warming_s} if name in rates else {}
        bench.row(group, name, **numbers, **({"error": values.error} if values.error else {}))
    ours = {name: rate for name, rate in rates.items() if name.startswith("ours")}
    for name, rate in rates.items():
        if ours and name not in ours:
            fastest = max(ours, key=lambda one: ours[one])
            bench.row(f"times as fast, {group}", name, ours=fastest, times=ours[fastest] / rate)


def contestants(bench: Bench, priors: dict[str, Prior], batch: int, guidance: float) -> dict[str, Callable[[], Any]]:
    """What builds each."""
    prior, device = next(iter(priors.values())), bench.device
    token_B = prior.vocabulary.class_tokens(torch.arange(batch, device=device) % 1000)
    uniform_BN = torch.rand(batch, prior.source.positions, device=device)
    null_B1 = torch.full_like(token_B, prior.vocabulary.null)[:, None]
    drawing = Drawing(guidance=guidance)

    def ours(name: str) -> Callable[[], Any]:
        def draw() -> Any:
            with mock.patch.dict(os.environ, {"VQLOOM_CUDA_GRAPHS": OURS[name]}):
                return priors[name].sample(token_B, uniform_BN, drawing)

        return draw

    def generate(**settings: Any) -> Callable[[], Any]:
        arguments = {"do_sample": True, "top_k": 0, "cache_implementation": "static", **settings}
        if guidance != 1:
            arguments |= {"guidance_scale": guidance, "negative_prompt_ids": null_B1}
        return lambda: prior.lm.generate(token_B[:, None], **arguments)[:, 1:]

    forms: dict[str, Callable[[], Any]] = {name: partial(ours, name) for name in OURS}
    forms["generate, static cache"] = lambda: generate(disable_compile=True)
    if not bench.rehearse:  # it compiles by itself, on GPUs only
        forms["generate, static cache, compiled"] = generate
    peers = gathered_peers(bench)
    if peers is not None:
        forms["LlamaGen's loop"] = partial(llamagen, prior, token_B, peers, guidance)
    return forms


def llamagen(prior: Prior, token_B: torch.Tensor, peers: Path, guidance: float) -> Callable[[], Any]:
    """LlamaGen's `generate` with our weights."""
    from tests.benchmarks.llamagen import llamagen_sampler

    calls = llamagen_sampler(prior, token_B, peers, guidance)  # type: ignore[arg-type]
    return calls["llamagen" if guidance == 1 else "llamagen, guided"]


def training(bench: Bench) -> None:
    """LlamaGen-B's training step, eager and compiled, in turns: samples a second, and the share of the card's peak."""
    (model, source), samples = sizes(bench), SAMPLES
    group = "training step of LlamaGen-B, 32 samples, bf16"
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
                bench.row(group, name, error=values.error)
                continue
            flop = made[name].cost.flops_per_code * source.positions * samples
            numbers = {"ms": values.median * 1e3, "samples_per_s": samples / values.median}
            numbers |= used(bench, flop / 1e12 / values.median)
            bench.row(group, name, **numbers, peak_gib=values.peak_gib, warming_s=values.warming_s)
