"""What a tokenizer's training costs: parameters, operations and memory, estimated on no device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from launch.command.cli import parse
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.tokenizer.codec import Codec
from stage1_tokenizer.train import train
from stage1_tokenizer.training.cost import Kept, memory, on_no_device
from stage1_tokenizer.training.step import OneForwardStep
from stage1_tokenizer.training.trained import Adversary
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.tiny import ROOT


def recipe(name: str, *options: str) -> TokenizerTrainConfig:
    place = ROOT / "launch" / "recipes" / name / "tokenizer.yaml"
    return parse(TokenizerTrainConfig, ["--config", str(place), *options], prog="train")


class Operations(TorchDispatchMode):
    """Counts them; FlopCounterMode also follows modules, and can't where gradients are taken in between."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def test_operations_are_those_that_torch_counts(tmp_path: Path) -> None:
    config = parse(
        TokenizerTrainConfig,
        tiny.arguments(tmp_path, loss__adversarial__layers=2, model__attention="false"),
        prog="train",
    )
    adversarial = config.loss.adversarial
    codec, judge = Codec(config.model).train(), build_discriminator(adversarial, 1, 2)
    step = OneForwardStep([], [Adversary(adversarial)])
    x_BCHW = torch.rand(4, 1, 16, 16) * 2 - 1
    with Operations() as counter:
        step(codec, [judge], x_BCHW, adversarial.start)
    expected = counter.total / 4
    # Without attention, whose operation on CPUs torch doesn't count. The cost leaves out the search for codes and the
    # adaptive weight, and has gradients at the first layers' inputs that nothing needs.
    assert on_no_device(config).step == pytest.approx(expected, rel=0.03)


def test_the_recipes_figures() -> None:
    cost = on_no_device(recipe("imagenet256"))
    assert (cost.generator, cost.quantizer, cost.discriminators) == (71_883_403, 16384 * 8, 2_765_633)
    assert cost.step == pytest.approx(1.337e12, rel=0.01)


def test_gigatoks_size() -> None:
    config = recipe("imagenet256_gigatok")
    cost = on_no_device(config)
    assert cost.generator == pytest.approx(2.76e9, rel=0.005)
    state, active = memory(config, cost, 32)
    assert state["FSDP2"] + active < 20 * 2**30 < 40 * 2**30 < state["DDP"]
    _, without = memory(config, on_no_device(recipe("imagenet256_gigatok", "--activation_checkpointing", "false")), 32)
    assert without > 5 * active


def test_a_dry_run_needs_neither_gpu_nor_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = tiny.arguments(tmp_path / "run", dry_run="true", data__index="nowhere.json")
    assert train(parse(TokenizerTrainConfig, options, prog="train")) == 0
    text = capsys.readouterr().out
    assert "ZeRO-3" in text and "discriminator: 0.00 M" in text and "GFLOP of a forward: encoder" in text
    assert not (tmp_path / "run").exists()


def test_what_is_kept_counts_once_and_wholly_where_memory_is_used_again() -> None:
    """A storage that is gone leaves its address to the next one, which is another."""
    kept = Kept(nn.Linear(2, 2))
    for _ in range(50):
        tensor = torch.empty(25)
        kept._add(tensor)
        kept._add(tensor)
        del tensor
    assert kept.bytes(recompute=False) == 50 * 100
