"""The interface over which a node reaches the others of its job: for gloo, over which the ranks vote."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import psutil

INTERFACE = "GLOO_SOCKET_IFNAME"


def settle(names: Sequence[str], node: int) -> None:
    """Tell gloo which interface leads to the job's other nodes, unless the user did.

    gloo itself takes the address of this machine's name, which is a loopback address on many systems.
    """
    if INTERFACE not in os.environ and len(names) > 1:
        peer = names[1] if node == 0 else names[0]
        if (found := interface_to(peer)) is not None:
            os.environ[INTERFACE] = found


def interface_to(host: str) -> str | None:
    """The network interface over which this machine reaches another one; None where that can't be told."""
    for family, kind, _, _, address in _addresses(host):
        try:
            with socket.socket(family, kind) as probe:
                probe.connect(address)  # of UDP: asks the routing table, sends nothing
                own = probe.getsockname()[0]
        except OSError:
            continue
        for name, addresses in psutil.net_if_addrs().items():
            if any(known.address.partition("%")[0] == own for known in addresses) and not own.startswith("127."):
                return name
    return None


def _addresses(host: str) -> Sequence[tuple[int, int, int, str, tuple[str | int, ...]]]:
    try:
        return socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)  # type: ignore[return-value]
    except OSError:
        return []
