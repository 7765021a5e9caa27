"""One self-contained HTML page about a run or a whole pipeline, from files alone: `python -m launch.report OUT`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.command.cli import parse, run


@dataclass(frozen=True)
class ReportConfig:
    """Write the report of a pipeline's folder, or of one run's."""

    folder: str
    """What launch.pipeline or a training run wrote; the first word."""
    out: str | None = None
    """Where the page goes; null: FOLDER/report.html."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = parse(ReportConfig, argv, prog="python -m launch.report OUT", positional=("folder",))
    from launch.reporting import page

    path = page.write(Path(config.folder), Path(config.out) if config.out else None)
    print(f"report at {os.path.relpath(path)}")
    return 0


if __name__ == "__main__":
    run(main, computes=False)
