"""Submit a recipe's whole chain to SLURM: `python -m launch.submit launch/recipes/mnist --nodes 4`.

The jobs wait for each other. Called again it submits only what isn't done, running or waiting.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.command.checks import at_least
from launch.command.cli import parse, run


@dataclass(frozen=True)
class SubmitConfig:
    """Submit a recipe's whole chain to SLURM, or run it here."""

    recipe: Path
    """launch/recipes/NAME; the first word."""
    nodes: int | None = None
    """Nodes of the training jobs; null: cluster.yaml's."""
    out: Path | None = None
    """The chain's folder, seen by all nodes; null: runs/NAME."""
    from_: str | None = None
    """Leave out the stages that this one needs; what they make must be there."""
    dry_run: bool = False
    """Show the table and the commands, submit nothing."""
    local: bool = False
    """Run the stages here, without SLURM."""
    processes: int = 1
    """With --local: ranks of the stages that share work."""

    def __post_init__(self) -> None:
        at_least(1, self, "nodes", "processes")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    from launch.stages import submission
    from launch.stages.jobs import read
    from launch.stages.listing import ROOT
    from launch.stages.runner import Runner, command

    options = parse(SubmitConfig, argv, prog="python -m launch.submit RECIPE", positional=("recipe",))
    recipe = options.recipe.resolve()
    recipe = recipe.relative_to(ROOT) if recipe.is_relative_to(ROOT) else recipe
    os.chdir(ROOT)
    out = (options.out or Path("runs") / recipe.name).absolute()
    chosen = read(recipe, out, shared=not options.local, processes=options.processes, nodes=options.nodes)
    live = {} if options.local else submission.live_jobs(needed=not options.dry_run)
    rows = submission.plan(chosen, recipe, out, options.from_, live)
    for warning in submission.changed_inputs(rows, out):
        print(warning, file=sys.stderr)
    if options.local and not options.dry_run:
        with Runner(out, "submit", keyed=False) as runner:
            submission.keep_inputs(rows, out)
            return runner.run([row.stage for row in rows], len(rows))
    if not options.dry_run:
        submission.submit(rows, out)
    submission.print_table(rows)
    if options.dry_run:
        for row in rows:
            line = command(row.stage) if options.local else [*row.command, f"launch/slurm/{row.stage.script}"]
            print(shlex.join(line) if row.command else f"# {row.stage.name}: {row.what}")
    else:
        print(f"watch it with: python -m launch.status {out}")
    return 0


if __name__ == "__main__":
    run(main, computes=False)
