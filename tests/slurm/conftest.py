"""The cluster that the tests of this folder share, and when they run.

They need root and what install.sh installs, and skip themselves without; with VQLOOM_NEED_SLURM=1 they fail instead.
Those marked slow_slurm (minutes each) run with VQLOOM_SLOW_SLURM=1 only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing
from tests.slurm.jobs import Toy


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes; stopped at the end, whatever happened."""
    if reason := missing():
        if os.environ.get("VQLOOM_NEED_SLURM") == "1":
            pytest.fail(f"VQLOOM_NEED_SLURM=1, but {reason}")
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def toy(cluster: Cluster, tmp_path: Path) -> Iterator[Toy]:
    """The small training, cancelled at the end; its log is shown where the test fails."""
    job = Toy(cluster, tmp_path / "toy")
    yield job
    print(job.text())
    if job.job:
        cluster.call("scancel", job.job, check=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the long ones unless they are asked for."""
    if os.environ.get("VQLOOM_SLOW_SLURM") == "1":
        return
    for item in items:
        if item.get_closest_marker("slow_slurm"):
            item.add_marker(pytest.mark.skip(reason="minutes on a local SLURM: set VQLOOM_SLOW_SLURM=1"))
