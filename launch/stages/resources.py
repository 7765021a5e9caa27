"""What a recipe asks of a cluster: launch/recipes/NAME/cluster.yaml."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from launch.command.checks import at_least
from launch.command.cli import UserError, parse


@dataclass(frozen=True)
class Resources:
    """What the jobs of a stage get; null leaves it to `every`, and there to the cluster's defaults."""

    nodes: int | None = None
    """Nodes of each job; training stages take --nodes instead where it is given."""
    gpus: int | None = None
    """GPUs of each node; 0 for none."""
    processes: int | None = None
    """Ranks on each node; null for one on each GPU, or one."""
    cpus: int | None = None
    """CPU cores of each node."""
    memory: str | None = None
    """Memory of each node, as sbatch's --mem takes it."""
    time: str | None = None
    """Time limit of each job, as sbatch's --time takes it. A training that needs longer is requeued and goes on."""
    parts: int | None = None
    """Jobs that the stage's work is shared out to (an array job); encoding and sampling only."""
    options: list[str] | None = None
    """Further options of sbatch, such as --constraint=a100."""
    arguments: list[str] | None = None
    """Further arguments of the stage's command, such as --guidance 3."""
    module: str | None = None
    """A command of one's own in place of the stage's; it gets `arguments` and, if it trains, --run.folder."""

    def __post_init__(self) -> None:
        at_least(1, self, "nodes", "processes", "cpus", "parts")
        at_least(0, self, "gpus")

    def over(self, other: Resources) -> Resources:
        """These, with the other's where these say nothing."""
        own = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(other, **own)


@dataclass(frozen=True)
class ClusterConfig:
    """How a chain's jobs are submitted."""

    partition: str | None = None
    """Partition; null for the cluster's default."""
    account: str | None = None
    """Account to charge; null for the user's default."""
    setup: str | None = None
    """A shell file that each job sources first: module lines, activation of the environment. null takes .venv."""
    srun: list[str] = field(default_factory=list)
    """Further options of srun, such as --container-image=… and --container-mounts=… where it starts containers."""
    nccl: str = "launch/slurm/nccl.env"
    """The file whose NCCL settings each job exports."""
    preflight: bool = True
    """Look at every node (file system, code, versions, GPUs, shards) before a job computes."""
    warn_seconds: int = 300
    """How long before its time limit a job is told to save and stop; a training step and a checkpoint must fit in."""
    most_idle: int = 3
    """Attempts in a row without a newer checkpoint after which a job isn't requeued any more."""
    every: Resources = field(default_factory=lambda: Resources(nodes=1, gpus=0))
    """What each stage's jobs get."""
    stages: dict[str, Resources] = field(default_factory=dict)
    """What the jobs of a stage get instead, by its name."""

    def __post_init__(self) -> None:
        at_least(1, self, "warn_seconds", "most_idle")

    def resources(self, stage: str) -> Resources:
        """What one stage's jobs get."""
        return self.stages.get(stage, Resources()).over(self.every).over(Resources(nodes=1, gpus=0, parts=1))


def load(recipe: Path) -> ClusterConfig:
    """The recipe's cluster.yaml; the defaults where it has none. UserError for a mistake in it."""
    if not recipe.is_dir():
        raise UserError(f"{recipe} is no folder of a recipe: name one such as launch/recipes/mnist")
    file = recipe / "cluster.yaml"
    return parse(ClusterConfig, ["--config", str(file)] if file.exists() else [], prog="launch.submit")
