"""Waiting for data and for the slowest rank, told in the log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launch.config import RunConfig
from launch.run import metrics
from launch.run.starting import start_run
from launch.run.waiting import summary
from tests.distributed import run_distributed_test


def slow_second_rank(folder: str) -> None:
    config = RunConfig(folder=folder, trackers=[], log_every=10)
    with start_run(config, config) as run:
        for step in range(10):
            time.sleep(0.02)  # what the loop's batch takes
            run.stopping()
            time.sleep(0.06 if run.rank == 1 else 0.01)
            run.record({"loss/rec": 1.0}, step=step, samples=4)


def test_the_slowest_rank_and_the_wait_for_data_are_told(tmp_path: Path) -> None:
    run_distributed_test(slow_second_rank, args=(str(tmp_path),))
    (line,) = metrics.read(tmp_path / metrics.FILE)
    assert line["wait/slowest_rank"] == 1
    assert 0.1 < line["wait/for_slowest_share"] < 0.6
    assert 0.1 < line["wait/data_share"] < 0.6
    assert line["memory/peak_gigabytes"] > 0.05


def test_shares_are_of_the_time_that_passed() -> None:
    found = summary([(10.0, 1.0, 4.0, 2.0), (10.0, 3.0, 0.0, 3.0)])
    assert found == {
        "wait/data_share": pytest.approx(0.2),
        "memory/peak_gigabytes": 3.0,
        "wait/slowest_rank": 1,
        "wait/for_slowest_share": pytest.approx(0.2),
    }


def test_one_rank_waits_for_no_other() -> None:
    assert set(summary([(10.0, 1.0, 0.1, 2.0)])) == {"wait/data_share", "memory/peak_gigabytes"}
