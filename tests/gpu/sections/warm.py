"""Beside sections that time nothing: compile what later ones compile, so that inductor's cache has it.

Any of it may fail: then its section compiles, or fails, itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from stage2_prior.config.drawing import Drawing
from tests.gpu.sections import sampling as sampling_section
from tests.gpu.sections.bench import Bench
from tests.gpu.sections.parts import StageTwo
from tests.gpu.sections.steps import ROUNDS, forms_of

GROUP = "compiled beforehand"


def steps(bench: Bench) -> None:
    """The compiled forms of section 2, in its order; one in a rehearsal."""
    names = [(one, name) for one in ROUNDS for name in (*one.ours, *one.theirs) if "compiled" in name]
    done = set()
    for one, name in names[:1] if bench.rehearse else names:
        if (name, one.pictures) in done:
            continue
        done.add((name, one.pictures))
        with bench.folder() as folder:
            make = forms_of(bench, one, folder).get(name)
            if make is not None:
                compiled(bench, f"{name}, {one.pictures} pictures", make)


def sampling(bench: Bench) -> None:
    """Section 4's training step, and its sampler's pieces at the batch that comes first."""
    with bench.folder() as folder:
        size, source = sampling_section.sizes(bench)
        settings: dict[str, Any] = {"classes": 1000, "compile": True}
        samples = sampling_section.SAMPLES
        compiled(
            bench, "LlamaGen-B's training", partial(StageTwo, size, source, folder, bench.device, samples, **settings)
        )
    compiled(bench, "LlamaGen-B's sampler", partial(drawing, bench))


def drawing(bench: Bench) -> Callable[[], Any]:
    """What draws one batch."""
    prior = sampling_section.drawn_prior(bench, compiled=True)
    batch = sampling_section.BATCHES[0]
    token_B = prior.vocabulary.class_tokens(torch.arange(batch, device=bench.device))
    uniform_BN = torch.rand(batch, prior.source.positions, device=bench.device)
    return lambda: prior.sample(token_B, uniform_BN, Drawing(guidance=sampling_section.GUIDANCE))


def compiled(bench: Bench, name: str, make: Callable[[], Callable[[], Any]]) -> None:
    """Build a form and take two steps of it: the second may compile something else than the first."""

    def measured() -> None:
        began = time.monotonic()
        step = make()
        step()
        step()
        bench.row(GROUP, name, seconds=time.monotonic() - began)

    torch._dynamo.config.automatic_dynamic_shapes = False
    bench.part(GROUP, name, measured)
    sampling_section.tidy(bench)
    torch._dynamo.reset()
