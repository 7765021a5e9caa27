"""Look at a run's checkpoints: `python -m launch.checkpoint RUN --list | --verify | --export FOLDER [--step N]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.checkpoints import folders
from launch.command.cli import UserError, parse, run


@dataclass(frozen=True)
class CheckpointConfig:
    """Look at a run's checkpoints: --list, --verify or --export FOLDER."""

    run: Path
    """The run's folder; the first word."""
    list: bool = False
    """Show steps, sizes and parts of all checkpoints."""
    verify: bool = False
    """Compare every file with its size and hash."""
    export: Path | None = None
    """Folder to which a checkpoint's networks are written as safetensors."""
    step: int | None = None
    """Which checkpoint to export; null: the newest valid one."""

    def __post_init__(self) -> None:
        if (self.list, self.verify, self.export is not None).count(True) != 1:
            raise ValueError("give one of --list, --verify and --export FOLDER")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where --verify finds damage."""
    options = parse(CheckpointConfig, argv, prog="python -m launch.checkpoint RUN", positional=("run",))
    steps = folders.steps(options.run)
    if not steps:
        raise UserError(f"{options.run} holds no checkpoints: name a run's folder")
    if options.export:
        from launch.checkpoints.export import export

        export(options.run, options.step, options.export)
        return 0
    damaged = 0
    for step in steps:
        path = folders.place(options.run, step)
        damage = folders.verify(path) if options.verify else None
        damaged += damage is not None
        print(f"{step:>9}  {damage or folders.described(path)}")
    return int(damaged > 0)


if __name__ == "__main__":
    run(main)
