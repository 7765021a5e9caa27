"""One node's share of a stage: `python -m launch.slurm.node --recipe DIR --out DIR STAGE ARGUMENT…`, called by srun.

Rank, address and port are what SLURM sets and launch/slurm/common.sh adds; without SLURM it is one machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.command.cli import parse, run
from launch.command.exit_codes import STOPPED
from launch.ranks.launcher import launch_arguments, supervise, threads
from launch.slurm.network import settle
from launch.stages import jobs as chain


@dataclass(frozen=True)
class NodeConfig:
    """Start this node's ranks of a stage and wait for them."""

    recipe: Path
    """The recipe's folder."""
    out: Path
    """The chain's folder."""
    stage: str
    """The stage; the first word."""
    arguments: list[str] = field(default_factory=list)
    """Further options of the stage's command: all that comes after its name."""


def accelerate_flags(
    module: str, arguments: Sequence[str], *, nodes: int, node: int, processes: int, address: str, port: int
) -> list[str]:
    """What follows `accelerate launch` on node number `node` of `nodes`, with `processes` ranks on each."""
    if nodes == 1:
        flags = launch_arguments(module, arguments, processes)
        return [*_logs(node), *flags] if processes > 1 else flags
    flags = launch_arguments(module, arguments, nodes * processes)
    flags[flags.index("--num_cpu_threads_per_process") + 1] = str(threads(processes))
    return [
        *("--num_machines", str(nodes), "--machine_rank", str(node)),
        *("--main_process_ip", address, "--main_process_port", str(port), "--rdzv_backend", "static"),
        *_logs(node),
        *flags,
    ]


def _logs(node: int) -> list[str]:
    """Each rank's output in a file of its own, beside the job's log, which has them all."""
    place = os.environ.get("VQLOOM_LOGS")
    return ["--log_dir", str(Path(place) / f"node{node}"), "--tee", "3"] if place else []


def main(argv: Sequence[str] | None = None) -> int:
    """Start this node's ranks and wait for them."""
    prog = "python -m launch.slurm.node --recipe DIR --out DIR STAGE ARGUMENT…"
    options = parse(NodeConfig, argv, prog=prog, positional=("stage",), rest="arguments")
    environ = os.environ
    nodes, node = int(environ.get("SLURM_STEP_NUM_NODES", "1")), int(environ.get("SLURM_NODEID", "0"))
    stage = chain.read(options.recipe, options.out).stage(options.stage)
    processes = int(environ.get("VQLOOM_PROCESSES", "1")) if stage.ranks else 1
    part = int(environ.get("SLURM_ARRAY_TASK_ID", "0"))
    parts = int(environ.get("VQLOOM_PARTS", environ.get("SLURM_ARRAY_TASK_COUNT", "1")))
    arguments = [*stage.arguments_of(part, parts), *options.arguments]
    if stage.trains:
        arguments += ["--run.processes", str(nodes * processes)]
    settle(environ.get("VQLOOM_NODES", "").split(","), node)
    # Seconds that the launcher gives the other ranks of a node to end by themselves once one has failed.
    environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "10")
    flags = accelerate_flags(
        stage.module,
        arguments,
        nodes=nodes,
        node=node,
        processes=processes,
        address=environ.get("VQLOOM_ADDRESS", "127.0.0.1"),
        port=int(environ.get("VQLOOM_PORT", "29500")),
    )
    code = supervise(flags)
    # For srun, a stop by signal is no failure; the batch script reads the code from the file.
    if place := environ.get("VQLOOM_LOGS"):
        (Path(place) / f"code.{node}").write_text(f"{code}\n")
        return 0 if code == STOPPED else code
    return code


if __name__ == "__main__":
    sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run(main, computes=False)
