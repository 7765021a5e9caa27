"""How fast the nodes of a job reach each other, over what training uses: NCCL on GPUs, gloo on CPUs.

python -m launch.slurm.speeds --nodes n1,n2      # on every node, by srun: the first one prints the speeds
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from launch.command.cli import UserError, one_line, parse, run
from launch.slurm.network import INTERFACE, settle

PATIENCE = 60
"""Seconds for the nodes to find each other, and for each transfer."""

SECONDS = 1.5
"""Time for the all-reduce, and for each third of the links."""

BYTES = {"cpu": 8_000_000, "cuda": 256_000_000}
"""What is sent at once."""

SHOWN = 16
"""Links that are listed."""

SLOW = 0.5
"""A link below this share of the median one is named in a warning."""


@dataclass(frozen=True)
class SpeedsConfig:
    """Let all nodes of a job exchange data for some seconds; the batch scripts call it."""

    nodes: str
    """Names of the job's nodes, separated by commas."""


@dataclass(frozen=True)
class Speeds:
    """GB/s, 10⁹ bytes a second."""

    ring: float
    """Of the all-reduce over all nodes: what each node sends."""
    links: dict[tuple[int, int], float]
    """From each node to the next one."""


def measure(node: int, nodes: int, address: str, port: int) -> Speeds | None:
    """Meet the other nodes over gloo, and over NCCL where there are GPUs; the speeds, on node 0.

    Uses the first GPU of each node. Raises UserError where the nodes don't meet. Takes some 5 s, importing torch apart.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    patience = timedelta(seconds=PATIENCE)
    try:
        dist.init_process_group(
            "gloo", init_method=f"tcp://{address}:{port}", rank=node, world_size=nodes, timeout=patience
        )
        dist.barrier()  # over gloo
        group = dist.new_group(backend="nccl", timeout=patience) if kind == "cuda" else dist.group.WORLD
        probe = Probe(torch.ones(BYTES[kind] // 4, device=kind), node, nodes, group)
        ring, links = probe.ring(), probe.links()
        everyones: list[dict[tuple[int, int], float]] = [{} for _ in range(nodes)]
        dist.all_gather_object(everyones, links)
        dist.destroy_process_group()
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"preflight: node {node} of {nodes} doesn't reach the others (at {address}:{port}, {kind}, "
            f"{INTERFACE}={os.environ.get(INTERFACE)}: {one_line(error, 300)}): name the nodes' network by "
            f"{INTERFACE} and NCCL_SOCKET_IFNAME in launch/slurm/nccl.env"
        ) from error
    return Speeds(ring, {pair: rate for each in everyones for pair, rate in each.items()}) if node == 0 else None


class Probe:
    """Times transfers between nodes, one process on each."""

    def __init__(self, buffer: Tensor, node: int, nodes: int, group: Any):
        self.buffer, self.node, self.nodes, self.group = buffer, node, nodes, group

    def ring(self) -> float:
        """GB/s that each node sends in an all-reduce over all of them."""

        def work() -> None:
            dist.all_reduce(self.buffer, group=self.group)

        self._seconds(work, 1)  # connects
        planned = self._planned(self._seconds(work, 1))
        dist.broadcast(planned, src=0)
        rounds = int(planned)
        sent = rounds * 2 * (self.nodes - 1) / self.nodes * self.buffer.nbytes
        return sent / self._seconds(work, rounds) / 1e9

    def links(self) -> dict[tuple[int, int], float]:
        """GB/s at which this node receives from the one before it in the ring.

        First the links from nodes with even numbers are at work, then those from odd ones, then the one that closes the
        ring, so that no node has two at a time.
        """
        found: dict[tuple[int, int], float] = {}
        for senders in (range(0, self.nodes - 1, 2), range(1, self.nodes - 1, 2), range(self.nodes - 1, self.nodes)):
            if self.nodes == 2 and 0 not in senders:
                continue
            dist.barrier()
            before = (self.node - 1) % self.nodes
            if self.node in senders:
                self._send((self.node + 1) % self.nodes)
            elif before in senders:
                found[before, self.node] = self._receive(before)
        return found

    def _send(self, to: int) -> None:
        def work() -> None:
            dist.send(self.buffer, to, group=self.group)

        self._seconds(work, 2)
        planned = torch.zeros((), dtype=torch.int64)
        dist.recv(planned, to)
        self._seconds(work, int(planned))

    def _receive(self, sender: int) -> float:
        def work() -> None:
            dist.recv(self.buffer, sender, group=self.group)

        self._seconds(work, 1)
        planned = self._planned(self._seconds(work, 1))
        dist.send(planned, sender)
        return int(planned) * self.buffer.nbytes / self._seconds(work, int(planned)) / 1e9

    def _planned(self, seconds: float) -> Tensor:
        return torch.tensor(max(1, min(1000, int(SECONDS / max(seconds, 1e-6)))))

    def _seconds(self, work: Callable[[], object], rounds: int) -> float:
        began = time.monotonic()
        for _ in range(rounds):
            work()
        if self.buffer.is_cuda:
            torch.cuda.synchronize()
        return time.monotonic() - began


def told(speeds: Speeds, names: Sequence[str]) -> list[str]:
    """The lines about the speeds: the ring, its links, the slowest one, and a warning where that is slow."""
    lines = [f"preflight: all-reduce over {len(names)} nodes: {speeds.ring:.3g} GB/s"]
    links = {f"{names[one]}-{names[other]}": rate for (one, other), rate in sorted(speeds.links.items())}
    slowest = min(links, key=links.__getitem__)
    listed = ", ".join(f"{link} {rate:.3g}" for link, rate in list(links.items())[:SHOWN])
    more = f" and {len(links) - SHOWN} more" if len(links) > SHOWN else ""
    lines.append(f"preflight: links in GB/s: {listed}{more}; slowest {slowest} {links[slowest]:.3g}")
    if links[slowest] < SLOW * (usual := statistics.median(links.values())):
        lines.append(f"warning: {slowest} is slow, the median link has {usual:.3g} GB/s: every step waits for it")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command that the batch scripts call."""
    names = parse(SpeedsConfig, argv, prog="python -m launch.slurm.speeds").nodes.split(",")
    node = int(os.environ["SLURM_NODEID"])
    settle(names, node)
    # The ports of two jobs differ by 7; the ranks will meet at the job's own.
    found = measure(node, len(names), os.environ["VQLOOM_ADDRESS"], int(os.environ["VQLOOM_PORT"]) + 1)
    if found is not None:
        print("\n".join(told(found, names)), file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    run(main)
