"""One command of the pipeline, or of a chain of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.stages.resources import Resources

TRAINS = ("tokenizer", "prior")
"""Stages of a chain that train: they write checkpoints, are requeued and take --nodes."""

SHARED = ("codes-train", "codes-held_out", "samples")
"""Stages that an array job may share; one more job, NAME-index, then writes what lists all parts."""


@dataclass(frozen=True)
class Stage:
    """One command of the pipeline, or of a chain of jobs."""

    name: str
    """Short name, and that of its record OUT/stages/NAME.json, its log and its job."""
    title: str
    """What it does, for people."""
    module: str
    """The module that is started."""
    arguments: tuple[str, ...]
    """Its options, before those of the cluster's configuration."""
    makes: tuple[Path, ...] = ()
    """Files that are there once it is done."""
    reads: tuple[Path, ...] = ()
    """Files whose content decides the result: recipes and indexes."""
    processes: int = 1
    """Ranks it is launched on, on this machine."""
    needs: tuple[str, ...] = ()
    """Stages of a chain that must be done before."""
    script: str = ""
    """Its batch script in launch/slurm."""
    resources: Resources = Resources()  # noqa: RUF009
    """What its jobs get."""

    @property
    def trains(self) -> bool:
        """Whether it is a training run, with checkpoints to resume from."""
        return self.name in TRAINS

    @property
    def ranks(self) -> bool:
        """Whether it uses several ranks; else it is one process."""
        return self.trains or self.name.removesuffix("-index") in SHARED

    @property
    def parts(self) -> Sequence[int | None]:
        """The parts that several jobs share, under which its states are kept; [None] for one job."""
        count = (self.resources.parts or 1) if self.name in SHARED else 1
        return range(count) if count > 1 else [None]

    def arguments_of(self, part: int = 0, parts: int = 1) -> list[str]:
        """The command's arguments for one of several jobs."""
        own = ["--part", str(part), "--parts", str(parts)] if parts > 1 else []
        return [*self.arguments, *(self.resources.arguments or []), *own]


def options(**values: object) -> tuple[str, ...]:
    """Keyword arguments as options: `run__folder=x` is `--run.folder x`."""
    pairs = [(f"--{name.replace('__', '.')}", str(value)) for name, value in values.items()]
    return tuple(part for pair in pairs for part in pair)
