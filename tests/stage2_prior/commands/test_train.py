from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.config import CodeDataConfig
from data.shards.loading import load_index
from launch.checkpoints import store as checkpoint
from launch.command.cli import UserError
from launch.command.exit_codes import INTERRUPTED, STOPPED
from launch.config import RunConfig
from launch.run import compiling
from launch.run.bad_updates import rollbacks
from launch.run.metrics import read
from launch.run.starting import start_run
from launch.strategies.base import Strategy
from launch.strategies.choose import share_out
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.training import PriorOptimizerConfig, PriorTrainConfig
from stage2_prior.measuring.held_out import held_out_figures
from stage2_prior.priors.build import build_prior, load_prior
from stage2_prior.train import train
from stage2_prior.training import loop as training
from stage2_prior.training.optimizer import PriorEma, build_optimizer
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.tiny import CLASSES, tiny_prior, write_tokenizer


def settings(coded: Coded, folder: Path, **changes: Any) -> PriorTrainConfig:
    return PriorTrainConfig(
        run=RunConfig(folder=str(folder), trackers=[], log_every=2, save_every=3),
        data=CodeDataConfig(index=coded.codes, held_out=coded.held_out_codes, batch_size=8),
        tokenizer=coded.tokenizer,
        **{
            "model": PriorModelConfig(layers=1, width=16, heads=2, class_dropout=0.3, code_noise=0.1),
            "optimizer": PriorOptimizerConfig(learning_rate=5e-3, warmup=3),
            "steps": 10,
            "evaluate_every": 5,
            **changes,
        },
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "prior" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Killed(BaseException):
    """Ends a training in the middle of a step, as kill -9 would: nothing is saved after it."""


def train_killed_at(config: PriorTrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training.train_step

    def step_or_die(*args: Any) -> Any:
        if args[4] == step:
            raise Killed
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", step_or_die)
        with pytest.raises(Killed):
            train(config)


@pytest.mark.parametrize(("kind", "step"), [("autoregressive", 2), ("autoregressive", 8), ("masked", 8)])
def test_killed_and_resumed_is_bit_identical(
    coded: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, step: int
):
    dropout = {"attention_dropout": 0.1, "dropout": 0.1, "token_dropout": 0.1}
    model = PriorModelConfig(kind=kind, layers=1, width=16, heads=2, class_dropout=0.3, **dropout)
    assert train(settings(coded, tmp_path / "whole", model=model)) == 0
    cut = settings(coded, tmp_path / "cut", model=model)
    train_killed_at(cut, step, monkeypatch)
    assert not (tmp_path / "cut" / "prior").exists()
    assert train(cut) == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def train_and_signal(config: PriorTrainConfig, number: int, step: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Train, with a signal during a step; the exit code."""
    real = training.train_step

    def step_and_signal(*args: Any) -> Any:
        if args[4] == step:
            os.kill(os.getpid(), number)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", step_and_signal)
        return train(config)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, STOPPED), (signal.SIGINT, INTERRUPTED)])
def test_a_signal_stops_with_a_checkpoint_and_its_own_exit_code(
    coded: Coded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
):
    config = settings(coded, tmp_path / "cut")
    assert train_and_signal(config, number, 4, monkeypatch) == code
    assert "stopped at step 5, with a checkpoint; rerun the same command to resume\n" in capsys.readouterr().err
    assert (tmp_path / "cut" / "checkpoints" / "step-000000005").is_dir()
    assert train(config) == 0
    assert train(settings(coded, tmp_path / "whole")) == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_last_step_comes_too_late(
    coded: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    config = settings(coded, tmp_path / "run")
    assert train_and_signal(config, number, config.steps - 1, monkeypatch) == 0
    assert (tmp_path / "run" / "prior").is_dir()
    evaluated = [line["step"] for line in read(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "eval"]
    assert evaluated[-1:] == ([config.steps] if config.data.held_out else [])


def test_a_signal_before_the_first_step_saves_nothing_and_says_so(
    coded: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real = checkpoint.load_latest

    def load_and_signal(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    config = settings(coded, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "load_latest", load_and_signal)
        assert train(config) == STOPPED
    assert "stopped at step 0, before its first step, there was nothing to save; rerun" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_training_learns_and_says_how_well(coded: Coded, tmp_path: Path):
    config = settings(coded, tmp_path / "run", steps=60, evaluate_every=20)
    assert train(config) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    bits = [line["eval/bits_per_code"] for line in lines if line["kind"] == "eval"]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [20, 40, 60]
    assert bits[-1] < bits[0] < math.log2(24) + 0.1
    assert {"loss/nll_bits", "optimizer/gradient_norm", "optimizer/learning_rate"} <= lines[-2].keys()
    prior = load_prior(tmp_path / "run")
    assert held_out_figures(prior, coded.held_out_codes, batch_size=5)["bits_per_code"] == pytest.approx(
        bits[-1], rel=1e-6
    )
    assert train(config) == 0, "a finished run is left as it is"


def test_accumulation_is_the_same_step(coded: Coded, tmp_path: Path):
    plain = PriorModelConfig(layers=1, width=16, heads=2, class_dropout=0.0)
    optimizer = PriorOptimizerConfig(learning_rate=5e-3, warmup=3)
    for name, parts in (("one", 1), ("four", 4)):
        changed = replace(optimizer, accumulate=parts)
        train(settings(coded, tmp_path / name, model=plain, optimizer=changed, steps=4))
    one, four = weights(tmp_path / "one"), weights(tmp_path / "four")
    for name in one:
        torch.testing.assert_close(one[name], four[name], atol=2e-5, rtol=1e-3)


def test_another_tokenizers_codes_are_refused_in_one_line(coded: Coded, tmp_path: Path):
    other = write_tokenizer(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match=r"tokenizer=.* but the codes are of .*: give the tokenizer") as caught:
        train(replace(settings(coded, tmp_path / "run"), tokenizer=other))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "nothing was begun"


def test_pictures_are_no_codes(coded: Coded, tmp_path: Path):
    config = settings(coded, tmp_path / "run")
    with pytest.raises(UserError, match="holds pictures, not codes: encode them"):
        train(replace(config, data=replace(config.data, index=coded.pictures)))


def test_a_uniform_prior_is_evaluated_at_log2_k_bits(coded: Coded):

    source = CodeSource.of_index(load_index(coded.codes), coded.codes)
    prior = build_prior(PriorModelConfig(layers=1, width=16, heads=2), source, CLASSES).eval()
    torch.nn.init.zeros_(prior.lm.lm_head.weight)
    assert held_out_figures(prior, coded.held_out_codes, batch_size=4)["bits_per_code"] == pytest.approx(
        math.log2(24), rel=1e-6
    )


def test_only_matrices_decay():
    prior = tiny_prior()
    decayed, free = build_optimizer(prior, PriorOptimizerConfig()).param_groups
    assert all(weight.ndim == 2 for weight in decayed["params"])
    names = {id(weight): name for name, weight in prior.named_parameters()}
    assert {names[id(weight)].split(".")[-2] for weight in free["params"]} >= {"embed_tokens", "norm"}
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_the_average_follows_the_weights(tmp_path: Path):
    prior = tiny_prior()
    before = [weight.detach().clone() for weight in prior.parameters()]
    config = RunConfig(folder=str(tmp_path), trackers=[])
    with start_run(config, config) as this:
        strategy = share_out(prior, lambda model: build_optimizer(model, PriorOptimizerConfig()), this)
        ema = PriorEma(strategy, 0.9)
        with torch.no_grad():
            for weight in prior.parameters():
                weight.add_(1.0)
        ema.update(step=1000)
        with ema.applied():
            for old, weight in zip(before, prior.parameters(), strict=True):
                torch.testing.assert_close(weight, old + 0.1)
        for old, weight in zip(before, prior.parameters(), strict=True):
            assert torch.equal(weight, old + 1.0), "the weights are back"


def test_recomputed_activations_give_the_same_weights(coded: Coded, tmp_path: Path):
    model = PriorModelConfig(layers=2, width=16, heads=2, attention_dropout=0.1)
    for name in ("kept", "again"):
        again = name == "again"
        train(settings(coded, tmp_path / name, model=model, steps=3, activation_checkpointing=again))
    for name, kept in weights(tmp_path / "kept").items():
        torch.testing.assert_close(weights(tmp_path / "again")[name], kept, atol=1e-6, rtol=1e-5)


def test_random_orders_train_resume_and_export_a_stock_model(
    coded: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = PriorModelConfig(layers=1, width=16, heads=2, order="random", label_smoothing=0.1, z_loss=1e-4)
    assert train(settings(coded, tmp_path / "whole", model=model)) == 0
    cut = settings(coded, tmp_path / "cut", model=model)
    train_killed_at(cut, 7, monkeypatch)
    assert train(cut) == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert not any("aim" in name for name in weights(tmp_path / "whole"))
    assert load_prior(tmp_path / "whole").vocabulary.codebook_size == 24
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    train_lines = [line for line in lines if line["kind"] == "train"]
    assert all(line["loss/total"] != line["loss/nll_bits"] * math.log(2) for line in train_lines)
    uses = [line["rate/mfu"] for line in lines if "rate/mfu" in line]
    assert len(uses) == 5 and all(use > 0 for use in uses)
    assert any(line.get("model/flops_per_code", 0) > 0 for line in lines)


def test_compiling_is_asked_of_the_losses_alone_and_not_on_cpus(
    coded: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    compiled: list[str] = []

    def compile_(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            compiled.append(method.__qualname__)
            return method(*given)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    assert train(settings(coded, tmp_path / "cpu", steps=1, compile=True)) == 0
    assert not compiled and "is for GPUs" in capsys.readouterr().err
    monkeypatch.setattr(compiling, "FASTER", ("cpu", "cuda"))
    assert train(settings(coded, tmp_path / "run", steps=2, compile=True)) == 0
    assert compiled == ["AutoregressivePrior.losses"] * 2


def test_bad_updates_are_skipped_then_turn_the_run_back(
    coded: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One infinite gradient costs one update; more in a row than run.skip_limit, a turn back to another order."""
    real = Strategy.descend

    def spoil(steps: Callable[[float], bool]) -> None:
        seen = count()

        def descend(self: Strategy, *args: Any) -> Any:
            if steps(next(seen)):
                next(self.model.parameters()).grad.fill_(math.inf)
            return real(self, *args)

        monkeypatch.setattr(Strategy, "descend", descend)

    spoil(lambda number: number == 4)
    assert train(settings(coded, tmp_path / "one")) == 0
    lines = [line for line in read(tmp_path / "one" / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["updates/skipped"] for line in lines] == [0, 0, 1, 1, 1]
    assert all(bool(weight.isfinite().all()) for weight in weights(tmp_path / "one").values())

    spoil(lambda number: 4 <= number < 8)
    config = settings(coded, tmp_path / "several")
    assert train(replace(config, run=replace(config.run, skip_limit=1))) == 0
    assert len(rollbacks(tmp_path / "several")) == 1
    assert all(bool(weight.isfinite().all()) for weight in weights(tmp_path / "several").values())
