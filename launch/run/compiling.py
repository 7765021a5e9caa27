"""Trainings that may compile, for both stages: where it is of use, and what happens where it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch

from launch.command.cli import UserError, one_line
from launch.run.runtime import Run

FASTER = ("cuda",)
"""Kinds of devices on which compiled steps are faster. On a CPU they take minutes to compile and are no faster."""


class _Config(Protocol):
    """What a configuration needs."""

    @property
    def compile(self) -> bool:
        """Whether to compile."""

    @property
    def compile_fallback(self) -> bool:
        """Whether to go on without where that fails."""


Config = TypeVar("Config", bound=_Config)


def or_uncompiled(config: Config, run: Run, train: Callable[[Config], int]) -> int:
    """What `train`, which begins with the newest checkpoint, returns; without compiling on CPUs and where it fails.

    Raises UserError where it fails, unless config.compile_fallback allows that.
    """
    if config.compile and run.device.type not in FASTER:
        run.say("note: compile=true is for GPUs, where it makes steps faster; this run is on a CPU and doesn't compile")
        config = _uncompiled(config)
    if not config.compile:
        return train(config)
    from torch._dynamo.exc import TorchDynamoException

    try:
        return train(config)
    except TorchDynamoException as error:
        said = one_line(error, 300)
        if not config.compile_fallback:
            raise UserError(
                f"compile=true can't be done here ({said}): set compile=false, or compile_fallback=true to go on "
                "without compiling where it fails"
            ) from error
        run.say(f"warning: compile=true can't be done here, the run goes on without it ({said})")
    torch.compiler.reset()
    return train(_uncompiled(config))


def _uncompiled(config: Any) -> Any:
    return replace(config, compile=False)
