"""Ranks near their GPUs: what is read from a machine's files, here made up, and which cores are taken."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.ranks.numa import bind, core_list, cores_near, pci_address

GPUS = [SimpleNamespace(pci_domain_id=0, pci_bus_id=bus, pci_device_id=0) for bus in (0x1B, 0x5E, 0xB1, 0xD9)]


def machine(place: Path, nodes: int) -> Path:
    """Eight cores in so many nodes, and four GPUs; the last one doesn't tell its node."""
    for node in range(nodes):
        folder = place / "devices" / "system" / "node" / f"node{node}"
        folder.mkdir(parents=True)
        each = 4 // nodes
        (folder / "cpulist").write_text(
            f"{node * each}-{node * each + each - 1},{4 + node * each}-{3 + each * (node + 1)}\n"
        )
    for number, gpu in enumerate(GPUS):
        folder = place / "bus" / "pci" / "devices" / pci_address(gpu)
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text("-1\n" if number == 3 else f"{number * nodes // 3}\n")
    return place


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """This process's cores, which no test really changes."""
    mask = {"now": set(range(8))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(mask["now"]), raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, to: mask.update(now=set(to)), raising=False)
    return mask


def test_a_rank_takes_the_cores_of_its_gpus_node(tmp_path: Path, cores: dict[str, set[int]]) -> None:
    place = machine(tmp_path, nodes=2)
    assert pci_address(GPUS[0]) == "0000:1b:00.0"
    assert bind(GPUS[0], place) == {0, 1, 4, 5} == cores["now"]
    assert bind(GPUS[0], place) == set(), "nothing changes any more"
    cores["now"] = {1, 2, 3, 6}  # what a job was given
    assert bind(GPUS[2], place) == {2, 3, 6} == cores["now"]


def test_nothing_changes_where_nothing_is_far_or_known(tmp_path: Path, cores: dict[str, set[int]]) -> None:
    one, two = machine(tmp_path / "one", nodes=1), machine(tmp_path / "two", nodes=2)
    assert bind(GPUS[0], one) == bind(GPUS[3], two) == bind(GPUS[0], tmp_path / "none") == set()
    assert bind(SimpleNamespace(name="an older torch"), two) == set()
    cores["now"] = {2, 3}  # all of them far away: a job's own choice stays
    assert bind(GPUS[0], two) == set() and cores["now"] == {2, 3}


def test_lists_of_cores() -> None:
    assert core_list("0-2,5,8-9\n") == {0, 1, 2, 5, 8, 9} and core_list("\n") == set()
    assert cores_near("") == set()
