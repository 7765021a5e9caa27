"""Keeps a rank near its GPU on machines with several NUMA nodes (sockets), where other cores and memory are far."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

SYSFS = Path("/sys")


def bind(device: Any, sysfs: Path = SYSFS) -> set[int]:
    """Run this process on those of its cores that belong to its GPU's NUMA node; the cores, or none if nothing changed.

    Memory follows, as Linux takes it from the node of the core that first writes it. Threads that run already stay.
    `device` is what torch.cuda.get_device_properties gives. Nothing happens with one node, or where it isn't known.
    """
    if not hasattr(os, "sched_setaffinity"):
        return set()
    now = os.sched_getaffinity(0)
    near = now & cores_near(pci_address(device), sysfs)
    if not near or near == now:
        return set()
    os.sched_setaffinity(0, near)
    return near


def pci_address(device: Any) -> str:
    """The name of a GPU in sysfs, such as 0000:3b:00.0; empty where torch doesn't tell it."""
    try:
        return f"{device.pci_domain_id:04x}:{device.pci_bus_id:02x}:{device.pci_device_id:02x}.0"
    except AttributeError:  # of torch's, in older releases
        return ""


def cores_near(address: str, sysfs: Path = SYSFS) -> set[int]:
    """Cores of the NUMA node of a PCI device; none where there is one node only or the device's isn't known."""
    nodes = sysfs / "devices" / "system" / "node"
    try:
        if not address or len(list(nodes.glob("node[0-9]*"))) < 2:
            return set()
        node = int((sysfs / "bus" / "pci" / "devices" / address / "numa_node").read_text())
        return core_list((nodes / f"node{node}" / "cpulist").read_text()) if node >= 0 else set()
    except (OSError, ValueError):
        return set()


def core_list(text: str) -> set[int]:
    """Numbers of a list as Linux writes it, such as 0-15,32-47."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return cores
