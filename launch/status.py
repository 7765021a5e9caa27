"""How far a chain or a run is, from its files alone: `python -m launch.status RUN [RUN…]`.

RUN is a folder of launch.submit or launch.pipeline, or one training's run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.command.cli import parse, run


@dataclass(frozen=True)
class StatusConfig:
    """Print how far chains or runs are, from their files alone."""

    runs: list[Path]
    """Folders of chains or of runs; the words of the command."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    from launch.stages.status import aligned, table

    runs = parse(StatusConfig, argv, prog="python -m launch.status RUN…", positional=("runs",)).runs
    for number, out in enumerate(runs):
        if len(runs) > 1:
            print(f"{'' if number == 0 else chr(10)}{out}")
        print("\n".join(aligned(table(out))))
    return 0


if __name__ == "__main__":
    run(main, computes=False)
