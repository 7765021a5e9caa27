"""Beside sections that time nothing: compile what later ones compile, so that inductor's cache has it.

Any of it may fail: then its section compiles, or fails, itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from tests.gpu.sections import sampling as later
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
    """Section 4's training step, and its samplers in its order; the first batch in a rehearsal."""
    with bench.folder() as folder:
        settings: dict[str, Any] = {"classes": 1000, "compile": True}
        given = (*later.sizes(bench), folder, bench.device, later.SAMPLES)
        compiled(bench, "LlamaGen-B's training", partial(StageTwo, *given, **settings))
    scratch = replace(bench, out=bench.out / "warm")  # its rows are none of the evidence
    scratch.out.mkdir(exist_ok=True)
    for batch, guidance in later.PAIRS[:1] if bench.rehearse else later.PAIRS:
        draw = partial(later.measured, scratch, batch, guidance, bench.left(), None)
        compiled(bench, later.group_of(batch, guidance), lambda draw=draw: draw, times=1)


def compiled(bench: Bench, name: str, make: Callable[[], Callable[[], Any]], times: int = 2) -> None:
    """Build a form and take steps of it: the second may compile something else than the first."""

    def measured() -> None:
        began = time.monotonic()
        step = make()
        for _ in range(times):
            step()
        bench.row(GROUP, name, seconds=time.monotonic() - began)

    torch._dynamo.config.automatic_dynamic_shapes = False
    bench.part(GROUP, name, measured)
    later.tidy(bench)
    torch._dynamo.reset()
