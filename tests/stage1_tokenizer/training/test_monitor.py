"""The monitor: what begins and what is over, once each, from logged values alone; and in a true run's log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch.run.metrics import read
from stage1_tokenizer.config.monitor import MonitorConfig
from stage1_tokenizer.train import train
from stage1_tokenizer.training.monitor import Monitor
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.training.test_train import configured

HEALTHY = {
    "codes/perplexity": 200.0,
    "codes/used": 240.0,
    "gan/accuracy": 0.7,
    "gan/logits_real": 0.4,
    "gan/logits_fake": -0.3,
    "gan/weight": 5.0,
    "loss/rec": 0.1,
    "optimizer/gradient_norm": 1.0,
    "rate/pictures_per_second": 100.0,
}
CONFIG = MonitorConfig(window=10, patience=3)


def monitor(config: MonitorConfig = CONFIG) -> Monitor:
    return Monitor(config, most={"codes/perplexity": 256.0, "codes/used": 256.0}, limits={"": 100.0})


def noted(lines: Sequence[dict[str, float]], config: MonitorConfig = CONFIG) -> list[tuple[int, str, str]]:
    """Events as (line, name, sentence)."""
    looking = monitor(config)
    found = [(number, looking.look({**HEALTHY, **line})) for number, line in enumerate(lines)]
    return [(number, name, text) for number, events in found for name, text in events.items()]


def names(events: list[tuple[int, str, str]]) -> list[tuple[int, str, bool]]:
    return [(number, name, text.startswith("over: ")) for number, name, text in events]


def test_a_healthy_run_is_left_alone() -> None:
    wave = [{name: value * (1 + 0.3 * math.sin(step)) for name, value in HEALTHY.items()} for step in range(40)]
    assert noted(wave) == []


@pytest.mark.parametrize("value", ["codes/perplexity", "codes/used"])
def test_a_codebooks_fall_is_named_at_once_and_once_until_it_is_over(value: str) -> None:
    fall = [{}] * 4 + [{value: 40.0}] * 30 + [{value: 100.0}] + [{value: 150.0}] * 2
    events = noted(fall)
    assert names(events) == [(4, "monitor/codebook", False), (34 + 1, "monitor/codebook", True)]
    assert "40 of 256 possible, recently 2" in events[0][2] and "revive_after" in events[0][2]


def test_a_codebook_that_never_rose_is_named_after_some_patience() -> None:
    events = noted([{"codes/perplexity": 2.0, "codes/used": 3.0}] * 8 + [{}])
    assert names(events) == [(2, "monitor/codebook", False), (8, "monitor/codebook", True)]
    assert "perplexity 2 of 256 possible" in events[0][2]


@pytest.mark.parametrize(
    ("name", "sick"),
    [
        ("discriminator_won", {"gan/accuracy": 0.995}),
        ("discriminator_lost", {"gan/accuracy": 0.501, "gan/logits_real": 0.01, "gan/logits_fake": 0.005}),
        ("adaptive_weight", {"gan/weight": 100.0}),
    ],
)
def test_what_lasts_is_named_after_some_patience(name: str, sick: dict[str, float]) -> None:
    assert names(noted([{}, sick, sick, {}, sick, sick])) == [], "it did not last"
    events = noted([{}] + [sick] * 9 + [{}] * 3)
    assert names(events) == [(3, f"monitor/{name}", False), (10, f"monitor/{name}", True)]


def test_equal_guesses_with_logits_apart_are_no_loss() -> None:
    assert noted([{"gan/accuracy": 0.5, "gan/logits_real": 2.0, "gan/logits_fake": -2.0}] * 9) == []


@pytest.mark.parametrize("value", ["loss/rec", "optimizer/gradient_norm"])
def test_a_spike_is_named_at_once(value: str) -> None:
    events = noted([{}] * 5 + [{value: 12 * HEALTHY[value]}] * 2 + [{value: 5 * HEALTHY[value]}, {}])
    assert names(events) == [(5, f"monitor/divergence/{value}", False), (8, f"monitor/divergence/{value}", True)]
    assert "lower learning rate" in events[0][2]


def test_a_new_level_is_no_divergence_for_ever() -> None:
    events = noted([{}] * 5 + [{"loss/rec": 2.0}] * 20)
    assert [over for _, _, over in names(events)] == [False, True]


def test_values_that_are_absent_or_no_numbers_are_passed_over() -> None:
    looking = monitor()
    for _ in range(9):
        assert looking.look({"loss/rec": math.nan, "codes/perplexity": math.inf}) == {}
    assert looking.look({}) == {}


def test_without_a_window_there_is_no_monitor() -> None:
    assert noted([{"gan/accuracy": 1.0}] * 9, MonitorConfig(window=0)) == []
    with pytest.raises(ValueError, match=r"monitor\.window=3 is out of range"):
        MonitorConfig(window=3)


def _train(folder: str) -> None:
    train(configured(Path(folder), steps=4, data__held_out="null", monitor__lost=0.45, monitor__patience=2))


def test_a_run_says_it_once_and_the_metrics_keep_it(tmp_path: Path) -> None:
    """Two steps after its start a discriminator knows little; two ranks see that, one says it."""
    run_distributed_test(_train, 2, [str(tmp_path)])
    (event,) = [line for line in read(tmp_path / "metrics.jsonl") if line["kind"] == "event"]
    assert event["step"] == 3
    text = event["monitor/discriminator_lost"]
    assert "the discriminator's guesses: accuracy" in text
    assert (tmp_path / "log.txt").read_text().count(f"step 3: {text}") == 1


def test_the_monitor_knows_what_is_possible(tmp_path: Path) -> None:
    of = Monitor.of(configured(tmp_path, data__batch_size=4), tiny.tokenizer())
    assert of.most == {"codes/perplexity": 32, "codes/used": 32}
    assert of.limits == {"": 0.8 * 1e4}
    assert Monitor.of(configured(tmp_path), tiny.tokenizer("gaussian")).most == {}
