"""The last stage of a chain, `python -m launch.slurm.finish --recipe DIR --out OUT`: metrics.json and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.command.cli import parse, run
from launch.files.outputs import try_file
from launch.reporting import page
from launch.stages import figures
from launch.stages.jobs import configured
from launch.stages.listing import stages


@dataclass(frozen=True)
class FinishConfig:
    """Write metrics.json and the report of a chain."""

    recipe: Path
    """The recipe's folder."""
    out: Path
    """The chain's folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    options = parse(FinishConfig, argv, prog="python -m launch.slurm.finish")
    try_file("out", options.out / figures.FILE)
    config = configured(options.recipe, options.out)
    figures.write(config, stages(config))
    print(f"report at {page.write(options.out)}")
    return 0


if __name__ == "__main__":
    run(main, computes=False)
