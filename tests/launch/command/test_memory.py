"""A command keeps the memory that it has freed, unless its user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CLEARED = """
import resource
from launch.command import cli

def main():
    import torch
    def pages():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(1 << 22)
    before = pages()
    for _ in range(4):
        torch.ones(1 << 22)
    print(pages() - before)

cli.run(main)
"""
"""Prints how many pages the system has cleared for four tensors of 16 MiB, after twenty like them.

Small objects settle between the first ones.
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
@pytest.mark.parametrize(("said", "most"), [({}, 1000), ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, None)])
def test_freed_memory_is_used_again(said: dict[str, str], most: int | None) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {**clean, "OMP_NUM_THREADS": "1", **said}
    done = subprocess.run([sys.executable, "-c", CLEARED], env=environment, capture_output=True, text=True, check=True)
    cleared = int(done.stdout)
    assert cleared < most if most else cleared > 10000
