"""The figures that a release carries (metrics.json): a file's, or those of the run's own evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.command.cli import UserError
from launch.run.metrics import FILE, read


def is_figure(value: object) -> bool:
    """Whether a value of metrics.json is a measured number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def own_figures(run: Path, step: int) -> dict[str, Any]:
    """The figures of a run's evaluation at a step, of averaged weights; {} if there was none."""
    lines = [line for line in read(run / FILE) if line["kind"] == "eval" and line["step"] == step]
    return {name.removeprefix("eval/"): value for name, value in (lines[-1] if lines else {}).items() if "/" in name}


def given_figures(path: str, weights_of: Callable[[dict[str, Any]], str], weights: str, command: str) -> dict[str, Any]:
    """A result of `command` (module and option naming the run); UserError if it isn't one, or is of other weights."""
    module = command.split()[0]
    try:
        metrics: dict[str, Any] = json.loads(Path(path).read_text())
        measured = weights_of(metrics)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"metrics={path} is not a result of {module} ({error!r}): measure again") from error
    if measured != weights:
        raise UserError(
            f"metrics={path} was measured on other weights than the newest checkpoint's: run {command} again"
        )
    return metrics
