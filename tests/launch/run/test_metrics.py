"""Metrics: whole lines, the latest of a repeated step, and means over steps and ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from launch.run.means import Means
from launch.run.metrics import FILE, MetricFile, read
from tests.distributed import run_distributed_test

CPU = torch.device("cpu")


def test_lines_are_read_as_written(tmp_path: Path) -> None:
    file = MetricFile(tmp_path)
    file.write(3, {"loss/rec": 0.25, "codes/used": 7}, "train")
    (line,) = read(tmp_path / FILE)
    assert (line.pop("time") > 0, line) == (True, {"step": 3, "kind": "train", "loss/rec": 0.25, "codes/used": 7})


def test_a_half_line_of_a_killed_run_spoils_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"step": 1, "kind": "train", "time": 1, "a": 1}\n{"step": 2, "ki')
    MetricFile(tmp_path).write(2, {"a": 2.0}, "train")
    assert [line["a"] for line in read(tmp_path / FILE)] == [1, 2.0]


def test_a_repeated_step_counts_once_and_kinds_stay_apart(tmp_path: Path) -> None:
    file = MetricFile(tmp_path)
    file.write(10, {"a": 1.0}, "train")
    file.write(10, {"a": 5.0}, "eval")
    file.write(10, {"a": 2.0}, "train")
    assert sorted((line["kind"], line["a"]) for line in read(tmp_path / FILE)) == [("eval", 5.0), ("train", 2.0)]


def test_reserved_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'step' is reserved"):
        MetricFile(tmp_path).write(1, {"step": 2.0}, "train")


def test_means_are_over_the_steps_since_the_last_take() -> None:
    means = Means()
    for value in (1.0, 2.0, 6.0):
        means.add({"a": torch.tensor([value]), "b": value}, CPU)
    means.add({"b": 7.0}, CPU)
    assert means.take() == {"a": 3.0, "b": 4.0}
    assert means.take() == {}


def test_means_keep_no_graph() -> None:
    weight = torch.ones(1, requires_grad=True)
    means = Means()
    means.add({"a": (weight * 2).sum()}, CPU)
    assert means.take() == {"a": 2.0}


def mean_of_ranks() -> dict[str, float]:
    means = Means()
    means.add({"rank": float(torch.distributed.get_rank())}, CPU)
    return means.take(2)


def test_means_are_over_the_ranks() -> None:
    assert run_distributed_test(mean_of_ranks, 2) == [{"rank": 0.5}] * 2
