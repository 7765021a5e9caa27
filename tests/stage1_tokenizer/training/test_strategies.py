"""Ways of sharing stage one's networks out (run.strategy): all reach the losses of one process, and resume each other.

With a discriminator, the adaptive weight and a codebook by moving averages. All trainings run on one pair of processes,
since starting them and DeepSpeed takes long. The whole matrix is tests/benchmarks/strategies.py --stage tokenizer.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from launch.checkpoint import main as checkpoint
from launch.checkpoints import folders
from launch.command.cli import UserError, parse
from launch.command.exit_codes import STOPPED
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.tokenizer.opening import open_run, saved_network
from stage1_tokenizer.train import train
from stage1_tokenizer.training import loop
from stage1_tokenizer.training.shared import check_strategy
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer import tiny

TOLERANCE = 1e-6
"""Largest difference of any step's losses from one process's: sums in another order, 50 steps long.

Few codes and positions, low rates: else a vector that is as near to two codes as rounding can tell takes another one in
one of the runs. And no hinge, with which the gradient of a discriminator's last bias is nothing but rounding.
"""

STEPS = 50

CHAIN = (("fsdp2", 8), ("zero3", 16), ("ddp", 24), ("zero1", 32), ("zero2", 40))
"""Strategies and the steps at which they stop; before them one process does 4 steps, after them one ends."""

NAMES = ["ddp", "fsdp2", "zero2", "zero3", "chain"]
"""The runs on two ranks; zero1, whose code is zero2's, is in the chain only."""

LEARNING = {
    "loss__adversarial__start": 3,
    "loss__adversarial__lecam": 0.1,
    "loss__adversarial__loss": "vanilla",
    "loss__adversarial__weight": 0.1,
    "optimizer__learning_rate": 2e-4,
    "optimizer__discriminator_learning_rate": 3e-5,
    "data__batch_size": 4,
    "model__quantizer__codebook_size": 8,
}


def configured(folder: Path, strategy: str | None = None, **changes: Any) -> TokenizerTrainConfig:
    options = {"steps": STEPS, "run__save_every": 1000, "model__dropout": 0, "evaluate_every": 1000, **LEARNING}
    options |= {"run__strategy": strategy} if strategy else {}
    options |= {"data__index": tiny.ROOT / tiny.TRAIN, "data__held_out": tiny.ROOT / tiny.HELD_OUT}
    return parse(TokenizerTrainConfig, tiny.arguments(folder, **{**options, **changes}), prog="test")


def train_until(config: TokenizerTrainConfig, stop: int) -> int:
    """Train as if a signal came during the step before `stop`; the exit code."""
    real, stopping = loop.train_step, loop.Run.stopping

    with pytest.MonkeyPatch.context() as patch:
        reached = []

        def step(*args: Any) -> Any:
            reached.append(args[3] + 1)
            return real(*args)

        def asked(run: Any) -> bool:
            if reached and reached[-1] == stop:
                run.request_stop()
            return stopping(run)

        patch.setattr(loop, "train_step", step)
        patch.setattr(loop.Run, "stopping", asked)
        return train(config)


def on_a_rank(place: Path) -> None:
    """Every strategy from the start, then the chain."""
    for strategy in NAMES[:-1]:
        assert train(configured(place / strategy, strategy)) == 0
    for strategy, stop in CHAIN:
        assert train_until(configured(place / "chain", strategy), stop) == STOPPED


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strategies")
    assert train(configured(folder / "one")) == 0
    assert train_until(configured(folder / "chain"), 4) == STOPPED
    run_distributed_test(on_a_rank, 2, (folder,), timeout=300)
    assert train(configured(folder / "chain")) == 0
    return folder


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    written = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return sorted((line for line in written if line["kind"] == kind), key=lambda line: line["step"])


def saved(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    newest = folder / folders.FOLDER / f"{folders.PREFIX}{STEPS:09d}"
    found = {name: saved_network(newest, name) for name in ("tokenizer", "ema", "discriminator")}
    return {name: state for name, state in found.items() if state is not None}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_reach_the_losses_of_one(place: Path, name: str) -> None:
    """The chain goes through all of them: one process, two ranks in five ways, one process."""
    expected, found = lines(place / "one", "train"), lines(place / name, "train")
    assert [line["step"] for line in found] == list(range(STEPS))
    assert {"loss/adversarial", "loss/discriminator", "loss/lecam", "gan/weight", "codes/used"} <= found[-1].keys()
    for one, other in zip(expected, found, strict=True):
        for key in one:
            if key.startswith("loss/"):
                assert other[key] == pytest.approx(one[key], abs=TOLERANCE), (one["step"], key)
    assert expected[-1]["loss/rec"] < expected[0]["loss/rec"] - 0.02, "it learns"
    states, others = saved(place / "one"), saved(place / name)
    assert states.keys() == others.keys() == {"tokenizer", "ema", "discriminator"}
    for part, state in states.items():
        assert state.keys() == others[part].keys()
        for key, tensor in state.items():  # Adam makes steps of the rounding that biases before norms have as gradient
            most = 5e-3 if key.endswith("bias") else 1e-5
            assert float((others[part][key] - tensor).abs().max()) < most, (part, key)
    (a,), (b,) = lines(place / "one", "eval"), lines(place / name, "eval")
    assert b["eval/psnr"] == pytest.approx(a["eval/psnr"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "zero2", "zero3"])
def test_each_rank_holds_half_of_the_state(place: Path, strategy: str) -> None:
    newest = place / strategy / folders.FOLDER / f"{folders.PREFIX}{STEPS:09d}"
    files = [load_file(newest / f"tokenizer_optimizer.part{rank}.safetensors") for rank in range(2)]
    one, other = (sum(tensor.numel() for key, tensor in file.items() if "/" in key) for file in files)
    weights = saved(place / "one")["tokenizer"]
    trained = sum(tensor.numel() for key, tensor in weights.items() if not key.startswith("quantizer."))
    assert one + other == 2 * trained and abs(one - other) < 0.2 * trained


@pytest.mark.slow
def test_shared_checkpoints_are_opened_and_exported(place: Path, tmp_path: Path) -> None:
    opened = open_run(place / "fsdp2")
    assert opened.step == STEPS
    expected = saved(place / "fsdp2")["ema"]
    assert all(torch.equal(expected[name], tensor) for name, tensor in opened.tokenizer.state_dict().items())
    assert checkpoint([str(place / "zero3"), "--export", str(tmp_path / "out")]) == 0
    state = load_file(tmp_path / "out" / "tokenizer.safetensors")
    assert state.keys() == saved(place / "one")["tokenizer"].keys()
    assert not (tmp_path / "out" / "tokenizer_optimizer.safetensors").exists()


@pytest.mark.slow
def test_a_killed_rank_is_resumed_from(place: Path, tmp_path: Path) -> None:
    """Under fsdp2: the other rank ends, and one process goes on from the pieces of both."""
    config = {"run__strategy": "fsdp2", "run__save_every": 5, "steps": STEPS, "model__dropout": 0, **LEARNING}
    options = tiny.arguments(tmp_path / "run", **config, evaluate_every=1000)
    command = tiny.command("stage1_tokenizer.train", options, processes=2)
    quiet = subprocess.DEVNULL
    started = psutil.Popen(command, cwd=tiny.ROOT, env=tiny.environment(), stdout=quiet, stderr=quiet)
    try:
        deadline = time.monotonic() + 200
        while not folders.steps(tmp_path / "run"):
            assert started.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        ranks = [one for one in started.children(recursive=True) if "stage1_tokenizer.train" in " ".join(one.cmdline())]
        ranks[-1].send_signal(signal.SIGKILL)
        assert started.wait(timeout=120) != 0
    finally:
        for process in [*started.children(recursive=True), started] if started.is_running() else []:
            process.kill()
    reached = folders.steps(tmp_path / "run")[0]
    assert 0 < reached < STEPS
    assert train(configured(tmp_path / "run", run__save_every=5)) == 0
    expected = {line["step"]: line["loss/rec"] for line in lines(place / "one", "train")}
    for line in lines(tmp_path / "run", "train"):
        assert line["loss/rec"] == pytest.approx(expected[line["step"]], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (
            "zero1",
            {"run__precision": "fp16"},
            r"run\.precision=fp16 is not supported with run\.strategy=zero1: use bf16",
        ),
        (
            "fsdp2",
            {"loss__adversarial__penalty": 1},
            r"a gradient penalty .* is not supported with run\.strategy=fsdp2",
        ),
        ("zero3", {"loss__adversarial__spectral_norm": "true"}, r"spectral_norm=true is not supported .*zero3"),
        ("zero3", {"activation_checkpointing": "true"}, r"activation_checkpointing .* is not supported .*zero3"),
        ("zero3", {"data__micro_batch": 2}, r"data\.micro_batch is not supported"),
        ("zero3", {"compile": "true"}, r"compile=true is not supported"),
        ("fsdp2", {"freeze": "[encoder, decoder]"}, r"freeze=\[encoder, decoder\] is not supported"),
    ],
)
def test_what_a_strategy_cannot_do_is_refused(
    strategy: str, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, strategy, **options)
    check_strategy(config)  # one process shares nothing
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=message):
        check_strategy(config)
