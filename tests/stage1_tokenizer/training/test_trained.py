"""How a tokenizer is trained: freezing, compiling, layout, and going on at another resolution."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.command.cli import parse
from stage1_tokenizer.config.training import (
    AdversarialConfig,
    LossConfig,
    OptimizerConfig,
    PerceptualConfig,
    TokenizerTrainConfig,
)
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.training.learner import build_optimizer
from stage1_tokenizer.training.trained import compile_networks, freeze
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.small_backbones import BACKBONES
from tests.stage1_tokenizer.training.textbook import one_forward

LOSS = LossConfig(
    perceptual=PerceptualConfig(weight=0), adversarial=AdversarialConfig(channels=4, layers=1, norm="group")
)


@pytest.mark.parametrize("names", [["encoder", "quantizer"], ["decoder"], ["quantizer"]])
def test_frozen_parts_stay_as_they_are(names: list[str]) -> None:
    torch.manual_seed(0)
    codes = replace(BACKBONES["conv"].quantizer, learning="moving_average", start="uniform", revive_after=2)
    tokenizer = Tokenizer(replace(BACKBONES["conv"], quantizer=codes))
    freeze(tokenizer, names)
    tokenizer.train()
    optimizer = build_optimizer(tokenizer, OptimizerConfig(learning_rate=1e-2))
    before = copy.deepcopy(tokenizer.state_dict())
    x_BCHW = torch.rand(2, 3, 32, 32) * 2 - 1
    for _ in range(3):
        made = tokenizer(x_BCHW)
        ((made.x_BCHW - x_BCHW).abs().mean() + sum(made.losses.values())).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, tensor in tokenizer.state_dict().items() if not torch.equal(tensor, before[name])}
    owner = {"quant_conv": "encoder", "post_quant_conv": "decoder"}
    parts = {owner.get(name.split(".")[0], name.split(".")[0]) for name in moved}
    assert parts == {"encoder", "quantizer", "decoder"} - set(names)
    assert tokenizer.decoder.training == ("decoder" not in names)


@pytest.mark.parametrize("name", ["maskgit", "titok"])
def test_compiled_networks_leave_the_same_gradients(name: str) -> None:
    """Through everything of torch.compile but the last stage, which needs a C++ compiler."""
    torch.manual_seed(0)
    plain, discriminator = Tokenizer(BACKBONES[name]).train(), build_discriminator(LOSS.adversarial, 3, 2)
    compiled, compiled_discriminator = copy.deepcopy(plain), copy.deepcopy(discriminator)
    compile_networks(compiled, [compiled_discriminator], backend="aot_eager")
    x_BCHW = torch.rand(2, 3, 32, 32) * 2 - 1
    for step in range(2):
        one_forward(LOSS)(plain, [discriminator], x_BCHW, step)
        one_forward(LOSS)(compiled, [compiled_discriminator], x_BCHW, step)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    pairs = zip(
        (*plain.named_parameters(), *discriminator.named_parameters()),
        (*compiled.parameters(), *compiled_discriminator.parameters()),
        strict=True,
    )
    for (key, one), other in pairs:
        assert (one.grad is None) == (other.grad is None), key
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5, msg=key)


def test_channels_last_weights_leave_the_same_gradients() -> None:
    torch.manual_seed(0)
    plain, discriminator = (
        Tokenizer(BACKBONES["magvit2"]).double().train(),
        build_discriminator(LOSS.adversarial, 3, 2).double(),
    )
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x_BCHW = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    for generator in (plain, other):
        one_forward(LOSS)(generator, [discriminator], x_BCHW, 0)
    for (key, one), two in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, msg=key)


def test_a_run_is_begun_with_another_at_twice_its_resolution(tmp_path: Path) -> None:
    """Progressive resolution: each stage is a run whose --init is the one before."""
    small = tiny.call("stage1_tokenizer.train", tiny.arguments(tmp_path / "small", steps=1, evaluate_samples=4))
    assert small.returncode == 0, small.stderr
    options = tiny.arguments(
        tmp_path / "large",
        steps=1,
        evaluate_samples=4,
        init=tmp_path / "small",
        data__transform__size=32,
        freeze="[encoder]",
        activation_checkpointing="true",
    )
    large = tiny.call("stage1_tokenizer.train", options)
    assert large.returncode == 0, large.stderr
    assert "initialised from" in large.stderr
    last = [json.loads(line) for line in (tmp_path / "large" / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/psnr" in line for line in last)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": "[encoder, quantizer, decoder]"}, "leaves nothing to train"),
        ({"freeze": "[codes]"}, "codes"),
        ({"compile": "true", "loss__adversarial__penalty": 1}, "compile=true is not supported with gradient penalties"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, Exception)) as caught:
        parse(TokenizerTrainConfig, tiny.arguments(tmp_path, **options), prog="test")
    assert message in str(caught.value) + capsys.readouterr().err
