"""How a tokenizer is trained: freezing, compiling, layout, and going on at another resolution."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.command.cli import parse
from launch.run.starting import start_run
from stage1_tokenizer.config.training import (
    AdversarialConfig,
    LossConfig,
    OptimizerConfig,
    PerceptualConfig,
    TokenizerTrainConfig,
)
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.media import MEDIA
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.training import trained as training_parts
from stage1_tokenizer.training.compiling import compile_networks
from stage1_tokenizer.training.learner import _fix_strides, build_optimizer
from stage1_tokenizer.training.loop import train_step
from stage1_tokenizer.training.trained import freeze
from tests.distributed import run_distributed_test
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


def layouts_of_a_training(folder: str, channels_last: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Three steps on this rank: what torch warned of, and whose strides differ from the weights'."""
    config = parse(TokenizerTrainConfig, tiny.arguments(Path(folder), **options), prog="test")
    with warnings.catch_warnings(record=True) as caught, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        torch.set_warn_always(True)  # else a warning that means nothing hides those after it
        patch.setattr(training_parts, "_channels_last", lambda config, run: channels_last)
        with start_run(config, config.run) as run:
            trained = training_parts.build(config, MEDIA["pictures"].terms(config.loss), run)
            for step in range(3):
                x_BCHW = torch.rand(2, 1, 32, 32).mul_(2).sub_(1)
                if channels_last:
                    x_BCHW = x_BCHW.to(memory_format=torch.channels_last)
                train_step(config, trained, x_BCHW, step)
            weights = dict(trained.tokenizer.named_parameters())
            wide = [name for name, weight in weights.items() if weight.ndim == 4 and min(weight.shape) > 1]
            last = [name for name in wide if weights[name].is_contiguous(memory_format=torch.channels_last)]
            copies, state = dict(trained.ema.tokenizer.named_parameters()), trained.generator.optimizer.state
            apart = [name for name in wide if copies[name].stride() != weights[name].stride()]
            apart += [name for name in wide if state[weights[name]]["exp_avg"].stride() != weights[name].stride()]
    said = [str(warning.message) for warning in caught if "strides" in str(warning.message)]
    return {"said": said, "wide": wide, "channels_last": last, "apart": apart}


@pytest.mark.parametrize(("channels", "inputs", "width"), [(64, 64, 1), (8, 4, 1), (64, 1, 3)])
def test_gradients_have_their_weights_strides_along_axes_of_length_1(channels: int, inputs: int, width: int) -> None:
    """Where torch's kernels leave others: for channels-last inputs, of 1x1 convolutions and of grey pictures."""
    layer = torch.nn.Conv2d(inputs, channels, width, padding=width // 2)
    _fix_strides(layer)
    x_BCHW = torch.randn(2, inputs, 16, 16).to(memory_format=torch.channels_last)
    for autocast in (False, True):
        layer.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            layer(x_BCHW).float().square().sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.stride() == layer.weight.stride()


@pytest.mark.parametrize(("channels", "channels_last"), [(8, True), (8, False), (64, True)])
def test_two_ranks_average_gradients_in_the_weights_layout(channels: int, channels_last: bool, tmp_path: Path) -> None:
    """DDP's buckets, the optimizer's state and the averaged weights have it too, so nothing is copied or warned of."""
    options = {"model__channels": channels, "model__z_channels": channels, "data__transform__size": 32}
    arguments = (str(tmp_path / "run"), channels_last, {**options, "loss__adversarial__start": 1})
    for seen in run_distributed_test(layouts_of_a_training, 2, arguments):
        assert seen["said"] == [] and seen["apart"] == []
        assert seen["channels_last"] == (seen["wide"] if channels_last else []) and seen["wide"]
