"""Between nodes: the interface for gloo, and how fast the links are, on processes that stand for nodes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import psutil
import pytest

from launch.slurm import network
from launch.slurm.network import INTERFACE, interface_to, settle
from launch.slurm.speeds import Speeds, told

MEET = ["-m", "launch.slurm.speeds"]


@pytest.fixture
def own_address() -> tuple[str, str]:
    """An interface of this machine that isn't the loopback, and its address."""
    for name, addresses in psutil.net_if_addrs().items():
        for known in addresses:
            if known.family == socket.AF_INET and not known.address.startswith("127."):
                return name, known.address
    pytest.skip("this machine has the loopback only")


def test_the_interface_is_the_one_towards_the_other_node(own_address: tuple[str, str]) -> None:
    name, address = own_address
    assert interface_to(address) == name


def test_a_loopback_or_an_unknown_name_leads_nowhere() -> None:
    assert interface_to("127.0.0.1") is None
    assert interface_to("no-such-node.invalid") is None


@pytest.mark.parametrize(
    ("names", "node", "peer"),
    [(["n1", "n2", "n3"], 0, "n2"), (["n1", "n2", "n3"], 1, "n1"), (["n1", "n2", "n3"], 2, "n1"), (["n1"], 0, None)],
)
def test_each_node_asks_the_way_to_another_one(
    monkeypatch: pytest.MonkeyPatch, names: list[str], node: int, peer: str | None
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(network, "interface_to", lambda host: asked.append(host) or "eth7")
    monkeypatch.setenv(INTERFACE, "")  # so that it is unset again after the test
    monkeypatch.delenv(INTERFACE)
    settle(names, node)
    assert asked == ([peer] if peer else [])
    assert os.environ.get(INTERFACE) == ("eth7" if peer else None)
    monkeypatch.setenv(INTERFACE, "mine")
    settle(names, node)
    assert os.environ[INTERFACE] == "mine"


def met(nodes: int, **changes: str) -> list[subprocess.CompletedProcess[str]]:
    """Nodes that meet, each a process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] - 1
    names = ",".join(f"n{number + 1}" for number in range(nodes))
    common = {"VQLOOM_ADDRESS": "127.0.0.1", "VQLOOM_PORT": str(port), "OMP_NUM_THREADS": "1", INTERFACE: "lo"}
    started = [
        subprocess.Popen(
            [sys.executable, *MEET, "--nodes", names],
            env={**os.environ, **common, **changes, "SLURM_NODEID": str(node)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(nodes)
    ]
    return [subprocess.CompletedProcess([], one.wait(), stderr=one.communicate()[1]) for one in started]


@pytest.mark.parametrize("nodes", [2, 3])
def test_nodes_meet_and_the_first_tells_how_fast_they_are(nodes: int) -> None:
    first, *others = met(nodes)
    assert [one.returncode for one in (first, *others)] == [0] * nodes, first.stderr
    ring, links = first.stderr.splitlines()[:2]
    assert ring.startswith(f"preflight: all-reduce over {nodes} nodes: ")
    for link in ["n1-n2"] if nodes == 2 else ["n1-n2", "n2-n3", "n3-n1"]:
        assert f"{link} " in links
    assert "; slowest n" in links
    assert all(one.stderr == "" for one in others)


def test_nodes_that_do_not_meet_are_told_in_one_line() -> None:
    first, _ = met(2, **{INTERFACE: "nowhere7"})
    assert first.returncode == 2
    assert first.stderr.count("\n") == 1
    assert first.stderr.startswith("error: preflight: node 0 of 2 doesn't reach the others (at 127.0.0.1:")
    assert "GLOO_SOCKET_IFNAME=nowhere7" in first.stderr and "launch/slurm/nccl.env" in first.stderr


def test_a_slow_link_is_named() -> None:
    links: dict[Any, float] = {(0, 1): 10.0, (1, 2): 2.0, (2, 3): 11.0, (3, 0): 10.0}
    lines = told(Speeds(9.5, links), ["a", "b", "c", "d"])
    assert lines == [
        "preflight: all-reduce over 4 nodes: 9.5 GB/s",
        "preflight: links in GB/s: a-b 10, b-c 2, c-d 11, d-a 10; slowest b-c 2",
        "warning: b-c is slow, the median link has 10 GB/s: every step waits for it",
    ]
    assert len(told(Speeds(9.5, {**links, (1, 2): 6.0}), ["a", "b", "c", "d"])) == 2
