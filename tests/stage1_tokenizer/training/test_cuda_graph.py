"""Replayed steps are the steps themselves: nothing that depends on the step is fixed by the first one recorded.

On CPUs a tape stands in for CUDA's graphs: Python runs once for it too (tests.stage1_tokenizer.training.tape).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from launch.command.cli import UserError, parse
from launch.run.seeding import seed_step
from launch.run.starting import start_run
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.media import MEDIA
from stage1_tokenizer.train import train
from stage1_tokenizer.training.cuda_graph import CapturedStep, CudaGraphs, check_cuda_graph
from stage1_tokenizer.training.loop import train_step
from stage1_tokenizer.training.trained import Trained, build
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.training.tape import Tape

STEPS = 30
OPTIONS: dict[str, Any] = {
    "steps": STEPS,
    "run__kernels": "plain",
    "run__tf32": "torch",
    "loss__adversarial__start": 6,
    "loss__adversarial__ramp": 15,
    "loss__adversarial__penalty": 1,
    "loss__adversarial__penalty_fake": 1,
    "loss__adversarial__penalty_every": 2,
    "loss__adversarial__lecam": 0.1,
    "loss__adversarial__norm": "group",
    "optimizer__warmup": 12,
    "model__quantizer__revive_after": 11,
}


def trained_for(
    folder: Path, captured: Callable[[torch.device], Any] | None, **options: Any
) -> tuple[list[dict[str, float]], dict[str, Tensor], CapturedStep | None]:
    """What 30 steps log, and the state after them."""
    config = parse(TokenizerTrainConfig, tiny.arguments(folder, **{**OPTIONS, **options}), prog="test")
    logged = []
    with start_run(config, config.run) as run:
        trained = build(config, MEDIA["pictures"].terms(config.loss), run)
        graph = CapturedStep(config, trained, train_step, captured(run.device)) if captured else None
        for step in range(STEPS):
            x_BCHW = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(step)) * 2 - 1
            seed_step(0, 0, step)
            x_BCHW = x_BCHW.to(run.device)
            scalars, good = graph(x_BCHW, step) if graph else train_step(config, trained, x_BCHW, step)
            logged.append({name: float(value) for name, value in scalars.items()} | {"good": float(good)})
    return logged, state_of(trained), graph


def state_of(trained: Trained) -> dict[str, Tensor]:
    """Every tensor of a checkpoint."""
    found: dict[str, Tensor] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            found[name] = value.detach().clone().cpu()
        for key, inner in value.items() if isinstance(value, dict) else ():
            add(f"{name}/{key}", inner)

    for name, part in trained.state.items():
        add(name, part.state_dict())
    return found


@pytest.mark.parametrize("quantizer", ["vq", "gumbel", "lfq"])
def test_replayed_steps_equal_plain_ones_to_the_bit(quantizer: str, tmp_path: Path) -> None:
    """With warm-up and cosine, averages, an adversary that starts and ramps, R1, R2, LeCam, dropout, revived codes."""
    options: dict[str, Any] = {}
    if quantizer != "vq":
        options = {"model__quantizer__kind": quantizer, "model__quantizer__anneal": 20, "model__dropout": 0.2}
        options |= {"model__quantizer__learning": "gradient", "model__quantizer__start": "uniform"}
        options |= {"model__quantizer__entropy_boost": 3} if quantizer == "lfq" else {}
    plain, state, _ = trained_for(tmp_path / "plain", None, **options)
    replayed, other, graph = trained_for(tmp_path / "replayed", lambda device: Tape(), **options)
    assert graph is not None and isinstance(graph.recorder, Tape)
    assert graph.recorder.captures == 3, "before the adversary, with and without its penalty"
    assert graph.recorder.replays >= 12
    for step, (one, two) in enumerate(zip(plain, replayed, strict=True)):
        assert two == one, step
    assert other.keys() == state.keys()
    for name, value in state.items():
        tolerance = 1e-6 if name.startswith("ema") else 0  # kernels for one share and for a tensor of it round apart
        torch.testing.assert_close(other[name], value, rtol=tolerance, atol=tolerance, msg=name)


def test_a_value_that_is_fixed_by_the_recording_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _, _ = trained_for(tmp_path / "plain", None)
    monkeypatch.setattr(CapturedStep, "_set_dials", lambda self, step: self._share.fill_(0.5) and 0.5)
    replayed, _, _ = trained_for(tmp_path / "replayed", lambda device: Tape())
    assert replayed[10:] != plain[10:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_graphs_train_as_plain_steps_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    options = {"run__deterministic": "true", "optimizer__ema_decay": 0.9}
    plain, state, _ = trained_for(tmp_path / "plain", None, **options)
    replayed, other, graph = trained_for(tmp_path / "replayed", CudaGraphs, **options)
    assert graph is not None and len(graph.graphs) == 3
    for one, two in zip(plain, replayed, strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": "true"}, "cuda_graph=true is not supported with compile"),
        ({"data__micro_batch": 1}, "cuda_graph=true is not supported with data.micro_batch"),
        ({"activation_checkpointing": "true"}, "cuda_graph=true is not supported with activation_checkpointing"),
    ],
)
def test_what_cannot_be_captured_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        parse(TokenizerTrainConfig, tiny.arguments(tmp_path, cuda_graph="true", **options), prog="test")


@pytest.mark.parametrize(
    ("place", "message"),
    [((False, 1, "ddp"), "needs a CUDA GPU"), ((True, 2, "ddp"), "for one rank"), ((True, 1, "zero1"), "zero1")],
)
def test_runs_that_have_no_graphs_are_told(place: tuple[bool, int, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_cuda_graph(*place)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_run_without_gpu_is_refused_before_its_folder_is_made(tmp_path: Path) -> None:
    words = tiny.arguments(tmp_path / "run", cuda_graph="true")
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        train(parse(TokenizerTrainConfig, words, prog="test"))
    assert not (tmp_path / "run").exists()
