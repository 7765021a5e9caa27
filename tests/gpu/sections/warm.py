"""Beside the first sections: compile what later ones compile, so that inductor's cache has it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from tests.gpu.sections.bench import Bench
from tests.gpu.sections.steps import ROUNDS, forms_of


def warm(bench: Bench) -> None:
    """In the order in which sections need it. Any of it may fail: then its section compiles, or fails, itself."""
    torch._dynamo.config.automatic_dynamic_shapes = False
    done = set()
    for one in ROUNDS:
        for name in (*one.ours, *one.theirs):
            if "compiled" in name and (name, one.pictures) not in done and not (bench.rehearse and done):
                done.add((name, one.pictures))
                with bench.folder() as folder:
                    make = forms_of(bench, one, folder).get(name)
                    if make is not None:
                        bench.part(
                            "compiling", f"{name}, {one.pictures} pictures", lambda make=make: compiled(bench, make)
                        )


def compiled(bench: Bench, make: Callable[[], Any]) -> None:
    """Build a form and take a step of it."""
    began = time.monotonic()
    step = make()
    step()
    del step
    gc.collect()
    if bench.device == "cuda":
        torch.cuda.empty_cache()
    torch._dynamo.reset()
    bench.row("compiling", "a form", seconds=time.monotonic() - began)
