"""The simulation's figures, where they are known."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from data.order.simulation import simulate, table
from data.simulate import SimulateConfig


def test_figures_of_a_small_cluster() -> None:
    figures = simulate(shards=50, samples=1000, sample_bytes=100_000, ranks=5, window=256)
    for part in (figures["local"], figures["streamed"]):
        assert part["samples_per_rank_least"] * 5 + part["left_out"] == figures["samples"]
        assert part["left_out"] < part["lanes"]
        fair = figures["bytes"] / 5
        assert 0.75 * fair < part["bytes_per_rank_least"] <= part["bytes_per_rank_most"] < 1.25 * fair
    local, streamed = figures["local"], figures["streamed"]
    assert local["lanes"] == 80 and streamed["lanes"] == 5
    assert local["neighbours_apart_median_steps"] > 0.15 * local["steps_per_epoch"]
    assert streamed["shards_open_most"] <= 2
    assert streamed["memory_per_rank_megabytes"] == pytest.approx(2 * 256 * 0.1)
    assert "0.00%" in table(figures)


def test_a_hundred_thousand_shards_take_under_a_minute() -> None:
    began = time.monotonic()
    words = ["--shards", "100000", "--ranks", "4096", "--json"]
    done = subprocess.run([sys.executable, "-m", "data.simulate", *words], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 60
    figures = json.loads(done.stdout)
    assert figures["local"]["reread_share"] == 0 and figures["peak_megabytes"] < 500


def test_wrong_numbers_are_one_line() -> None:
    with pytest.raises(ValueError, match="batch_size=10 is not a multiple of ranks=4"):
        SimulateConfig(ranks=4, batch_size=10)
