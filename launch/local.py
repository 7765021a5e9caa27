"""Start a command of this project on one machine: `python -m launch.local --processes N MODULE ARGUMENT…`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from launch.command.checks import at_least
from launch.command.cli import parse, run
from launch.ranks.launcher import launch_arguments, supervise


@dataclass(frozen=True)
class LocalConfig:
    """Start a module of this project on several ranks of this machine."""

    module: str
    """stage1_tokenizer.train, stage2_prior.sample, …; the first word."""
    arguments: list[str] = field(default_factory=list)
    """The module's own options: all that comes after its name."""
    processes: int = 1
    """Ranks on this machine."""

    def __post_init__(self) -> None:
        at_least(1, self, "processes")


def main(argv: Sequence[str] | None = None) -> int:
    """Read `--processes N MODULE ARGUMENT…` and start it."""
    prog = "python -m launch.local [--processes N] MODULE ARGUMENT…"
    config = parse(LocalConfig, argv, prog=prog, positional=("module",), rest="arguments")
    return supervise(launch_arguments(config.module, config.arguments, config.processes))


if __name__ == "__main__":
    run(main, computes=False)
