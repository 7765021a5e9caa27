"""Presets of losses, and what is refused for sounds and for pictures."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import yaml

from launch.command.cli import UserError, parse
from stage1_tokenizer.config.losses import AdversarialConfig, LossConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.discriminators import DISCRIMINATORS
from stage1_tokenizer.media import MEDIA

SOUND = {
    "run.folder": "run",
    "data.index": "train.json",
    "data.transform.kind": "sounds",
    "data.transform.length": "4096",
    "model.spatial_dims": "1",
    "model.in_channels": "1",
    "model.backbone": "vocos",
    "loss.preset": "dac",
}


def parsed(**changes: Any) -> TokenizerTrainConfig:
    options = SOUND | {name.replace("__", "."): str(value) for name, value in changes.items()}
    words = [part for name, value in options.items() if value != "None" for part in (f"--{name}", value)]
    return parse(TokenizerTrainConfig, words, prog="test")


def test_presets_are_the_published_losses() -> None:
    dac = LossConfig(preset="dac")
    assert dac.terms == {"mel": {"weight": 15.0, "definition": "dac"}}
    (first, second) = dac.adversaries.values()
    assert [first.discriminator, second.discriminator] == ["periods", "bands"]
    assert second.sizes == [2048, 1024, 512]
    assert list(first.periods) == [2, 3, 5, 7, 11]
    for one in (first, second):  # half of the generator's least squares, so twice the published weight 1
        assert (one.loss, one.weight, one.feature_matching, one.reduction) == ("least_squares", 2.0, 2.0, "sum")
        assert (one.channels, one.peak, one.adaptive) == (32, 0.8, False)
    encodec = LossConfig(preset="encodec")
    assert encodec.terms == {"waveform": {"weight": 0.1}, "mel": {"weight": 2.0, "definition": "encodec"}}
    (only,) = encodec.adversaries.values()
    assert (encodec.balance, encodec.balance_decay) == ("gradient", 0.999)
    assert (only.discriminator, only.loss, only.weight, only.feature_matching) == ("stft", "hinge", 4.0, 4.0)
    assert (only.sizes, only.reduction, only.peak) == ([2048, 1024, 512, 256, 128], "mean", 0)


def test_what_is_set_beside_a_preset_stays() -> None:
    own = LossConfig(
        preset="dac",
        terms={"mel": {"windows": [32, 64]}, "stft": 1.0},
        adversarial=AdversarialConfig(weight=0),
        discriminators=[AdversarialConfig(windows=[256, 128], channels=8), AdversarialConfig(discriminator="stft")],
    )
    assert own.terms["mel"] == {"weight": 15.0, "definition": "dac", "windows": [32, 64]}
    assert own.terms["stft"] == {"weight": 1.0}
    (bands, stft) = own.adversaries.values()
    assert (bands.discriminator, bands.sizes, bands.channels, bands.peak) == ("bands", [256, 128], 8, 0.8)
    assert (stft.discriminator, stft.peak) == ("stft", 0)
    assert replace(own) == own
    less = LossConfig(preset="encodec", terms={"waveform": 0})
    assert less.terms["waveform"] == {"weight": 0}


def test_a_configuration_with_a_preset_is_read_again() -> None:
    config = parsed()
    assert [one.discriminator for one in config.loss.adversaries.values()] == ["periods", "bands"]
    again = yaml.safe_dump(asdict(config.loss))
    assert (
        LossConfig(
            **{
                **yaml.safe_load(again),
                **{name: getattr(config.loss, name) for name in ("perceptual", "logits", "semantic")},
                "adversarial": config.loss.adversarial,
                "discriminators": config.loss.discriminators,
            }
        )
        == config.loss
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss__preset": "None"}, "sounds need a term: set loss.preset=dac"),
        ({"loss__pixel_weight": 2}, "loss.pixel_weight=2.0 is for pictures: remove it"),
        ({"loss__pixel": "l2"}, "loss.pixel=l2 is for pictures"),
        ({"loss__perceptual__net": "alex"}, "is for pictures: remove it"),
        ({"loss__adversarial__discriminator": "stylegan"}, "stylegan"),
        (
            {"loss__adversarial__adaptive": True, "loss__preset": "None", "loss__terms": '{"mel": 1}'},
            "model.backbone=vocos",
        ),
        ({"data__transform__length": 4097}, "data.transform.length=4097 is not a multiple of 256"),
        ({"data__transform__channels": 2}, "model.in_channels=1 differs from data.transform.channels=2"),
        ({"model__spatial_dims": 2, "model__backbone": "conv"}, "model.spatial_dims=2 is not for sounds"),
        ({"evaluate_features": "vgg16"}, "evaluate_features=vgg16 is for pictures"),
        ({"loss__balance_decay": 1}, "loss.balance_decay=1.0 is out of range"),
        ({"loss__preset": "mp3"}, "dac"),
    ],
)
def test_settings_that_do_not_fit_sounds_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(**changes)
    assert message in str(caught.value)


def test_a_balance_and_adaptive_weights_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"loss\.balance=gradient is not supported with adaptive=true"):
        LossConfig(balance="gradient")
    assert LossConfig(balance="gradient", adversarial=AdversarialConfig(weight=0)).adversaries == {}


def test_every_discriminator_is_for_a_kind_of_data() -> None:
    fit = {kind: set(medium.discriminators) for kind, medium in MEDIA.items()}
    assert set.union(*fit.values()) == set(DISCRIMINATORS)
    assert fit["pictures"] & fit["sounds"] == {"patch"}
