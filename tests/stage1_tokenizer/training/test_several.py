"""Several discriminators, each with its own settings, and terms that are added from outside."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from launch.command.cli import UserError, parse
from launch.run.metrics import read
from stage1_tokenizer.config.losses import DiscriminatorOptimizerConfig
from stage1_tokenizer.config.training import (
    AdversarialConfig,
    LossConfig,
    PerceptualConfig,
    TokenizerOptimizerConfig,
    TokenizerTrainConfig,
)
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.losses.pixel import PIXEL
from stage1_tokenizer.losses.term import Term
from stage1_tokenizer.media import pictures
from stage1_tokenizer.train import train
from stage1_tokenizer.training.learner import discriminator_settings
from stage1_tokenizer.training.loop import train_step as original
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.training.test_step import assert_same_gradients, parts
from tests.stage1_tokenizer.training.textbook import one_forward, textbook_step

PATCH = AdversarialConfig(channels=4, layers=2, lecam=0.2)
STYLEGAN = AdversarialConfig(
    discriminator="stylegan", channels=4, layers=3, group=2, loss="least_squares", weight=0.3, start=5, ramp=4
)
PENALISED = replace(STYLEGAN, penalty=1.0, penalty_fake=0.5, penalty_every=2)


@pytest.mark.parametrize(("step", "shares"), [(6, (1.0, 0.5)), (4, (1.0, None))])
@pytest.mark.parametrize("second", [STYLEGAN, replace(PENALISED, penalty_every=1), replace(STYLEGAN, adaptive=False)])
def test_the_step_with_two_equals_the_textbooks(
    second: AdversarialConfig, step: int, shares: tuple[float, float | None]
) -> None:
    config = LossConfig(perceptual=PerceptualConfig(weight=0.7), adversarial=PATCH, discriminators=[second])
    generator, first, lpips, x = parts(PATCH)
    networks = [first, build_discriminator(second, 3).double()]
    plain_generator, plain = copy.deepcopy(generator), copy.deepcopy(networks)
    values = textbook_step(config, plain_generator, list(zip(plain, shares, strict=True)), lpips, x)

    result = one_forward(config, lpips)(generator, networks, x, step)

    assert result.trained == [share is not None for share in shares]
    assert ("loss/discriminator_2" in values) == result.trained[1]
    for network, expected in zip((generator, *networks), (plain_generator, *plain), strict=True):
        assert_same_gradients(network, expected)
    for name, value in values.items():
        assert float(result.metrics[name]) == pytest.approx(value, rel=1e-9), name


def configured(folder: Path, **changes: Any) -> TokenizerTrainConfig:
    second = (
        '[{"discriminator": "stylegan", "channels": 4, "layers": 2, "lecam": 0.1, "start": 3, "penalty": 2.0, '
        '"penalty_every": 2, "optimizer": {"learning_rate": 0.0003, "beta1": 0.0, "clip": 0.5}}]'
    )
    options = {"data__index": tiny.ROOT / tiny.TRAIN, "data__held_out": "null", "loss__discriminators": second}
    return parse(TokenizerTrainConfig, tiny.arguments(folder, **options, **changes), prog="test")


def checkpoint(folder: Path, step: int) -> dict[str, Any]:
    place = folder / "checkpoints" / f"step-{step:09d}"
    return {file.stem: torch.load(file, weights_only=True) for file in place.glob("*.pt")}


def test_a_run_with_two_resumes_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(configured(tmp_path / "one", steps=8)) == 0
    module = "stage1_tokenizer.training.loop.train_step"

    def killed(config: Any, trained: Any, x_BCHW: Any, step: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return original(config, trained, x_BCHW, step)

    with monkeypatch.context() as patch:
        patch.setattr(module, killed)
        with pytest.raises(KeyboardInterrupt):
            train(configured(tmp_path / "two", steps=8))
    assert train(configured(tmp_path / "two", steps=8)) == 0
    one, two = checkpoint(tmp_path / "one", 8), checkpoint(tmp_path / "two", 8)
    second = {"discriminator_2", "discriminator_2_optimizer", "lecam_2"}
    assert {"discriminator", "discriminator_optimizer", *second} <= one.keys() == two.keys()
    assert "lecam" not in one
    for name in ("tokenizer", "ema", "discriminator", "discriminator_2", "lecam_2"):
        assert all(torch.equal(tensor, two[name][key]) for key, tensor in one[name].items()), name
    (group,) = one["discriminator_2_optimizer"]["param_groups"]
    assert (group["lr"], group["betas"]) == (pytest.approx(0, abs=3e-5), (0.0, 0.9))
    last = [line for line in read(tmp_path / "one" / "metrics.jsonl") if line["kind"] == "train"][-1]
    names = {"gan/weight_2", "gan/accuracy_2", "loss/discriminator_2", "optimizer/discriminator_gradient_norm_2"}
    assert names | {"gan/weight", "optimizer/discriminator_gradient_norm"} <= last.keys()


def test_a_discriminators_settings_are_the_runs_where_it_has_none_of_its_own() -> None:
    run = TokenizerOptimizerConfig(learning_rate=1e-3, discriminator_learning_rate=3e-4, beta2=0.95, clip=2.0)
    shared = discriminator_settings(run, DiscriminatorOptimizerConfig())
    assert (shared.learning_rate, shared.beta2, shared.clip) == (3e-4, 0.95, 2.0)
    own = discriminator_settings(run, DiscriminatorOptimizerConfig(learning_rate=1e-5, beta2=0.99, clip=0.0))
    assert (own.learning_rate, own.beta2, own.clip, own.beta1) == (1e-5, 0.99, 0.0, 0.5)
    with pytest.raises(ValueError, match=r"loss\.adversarial\.optimizer\.beta1=1 is out of range"):
        DiscriminatorOptimizerConfig(beta1=1)


class Brightness(Term):
    """A term that no file of the packages knows: the squared difference of the mean values."""

    name = "brightness"

    def __init__(self, weight: float = 1.0, power: int = 2):
        super().__init__(weight)
        self.power = power

    def forward(self, x_hat_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        return (x_hat_BCHW.mean() - x_BCHW.mean()).abs() ** self.power


def test_a_term_is_added_by_its_class_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pictures.TERMS, "brightness", Brightness)
    config = configured(tmp_path, steps=2, loss__terms='{"brightness": {"weight": 0.5, "power": 2}}')
    assert train(config) == 0
    line = [line for line in read(tmp_path / "metrics.jsonl") if line["kind"] == "train"][-1]
    assert 0 < line["loss/brightness"] < 4
    x_hat, x = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    value, gradient = Brightness(weight=0.5).at(x_hat, x)
    assert not value.requires_grad
    torch.testing.assert_close(gradient, torch.full_like(x, float(x_hat.mean() - x.mean()) / x.numel()))


def test_terms_without_a_weight_are_left_out_and_unknown_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pictures.TERMS, "brightness", Brightness)
    silent = LossConfig(perceptual=PerceptualConfig(weight=0), terms={"brightness": 0})
    assert [term.name for term in pictures.terms(silent)] == ["rec"]
    assert [term.name for term in pictures.terms(replace(silent, terms={"brightness": 2}))] == ["rec", "brightness"]
    for terms, message in (
        ({"colour": 1}, r"loss\.terms\.colour is unknown \(brightness\): remove it"),
        ({"brightness": {"wait": 1}}, r"loss\.terms\.brightness=\{'wait': 1\} can't be used"),
        ({"brightness": "much"}, r"loss\.terms\.brightness=much can't be used"),
    ):
        with pytest.raises(UserError, match=message):
            pictures.terms(replace(silent, terms=terms))


def test_a_pixel_loss_is_added_by_a_function_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIXEL, "largest", lambda x, y: (x - y).abs().max())
    config = LossConfig(pixel="largest", perceptual=PerceptualConfig(weight=0))  # type: ignore[arg-type]
    (term,) = pictures.terms(config)
    assert float(term(torch.zeros(3), torch.tensor([0.0, 2.0, -3.0]))) == 3
