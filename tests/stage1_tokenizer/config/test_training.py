"""Settings of stage one: what is refused, and that each refusal names key, value and a way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from launch.command.cli import UserError, parse
from stage1_tokenizer.config.training import (
    AdversarialConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PerceptualConfig,
    QuantizerConfig,
    TokenizerTrainConfig,
)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: QuantizerConfig(codebook_size=1), "model.quantizer.codebook_size=1"),
        (lambda: QuantizerConfig(decay=1.0), "model.quantizer.decay=1.0"),
        (lambda: QuantizerConfig(beta_placement="legacy", learning="moving_average"), "beta_placement=legacy"),
        (lambda: ModelConfig(channel_multipliers=[]), r"model.channel_multipliers=\[\]"),
        (lambda: ModelConfig(dropout=1.0), "model.dropout=1.0"),
        (lambda: PerceptualConfig(fraction=0.0), "loss.perceptual.fraction=0.0"),
        (lambda: AdversarialConfig(layers=0), "loss.adversarial.layers=0"),
        (lambda: LossConfig(pixel_weight=-1.0), "loss.pixel_weight=-1.0"),
        (lambda: OptimizerConfig(beta2=1.0), "optimizer.beta2=1.0"),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[[], object], key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}.*(set it to|in )"):
        make()


def test_stride_is_a_power_of_the_levels() -> None:
    assert ModelConfig(channel_multipliers=[1]).stride == (1, 1)
    assert ModelConfig().stride == (16, 16)
    assert ModelConfig(spatial_dims=3).stride == (16, 16, 16)


ARGV = ["--run.folder", "somewhere", "--data.index", "index.json", "--data.transform.size", "32"]


def parsed(*argv: str) -> TokenizerTrainConfig:
    return parse(TokenizerTrainConfig, [*ARGV, *argv], prog="train")


def test_yaml_and_dotted_overrides(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("model:\n  channel_multipliers: [1, 2]\n  quantizer: {kind: vq, codebook_size: 64}\nsteps: 7\n")
    config = parsed("--config", str(file), "--model.quantizer.code_dim", "8", "--optimizer.betas", "[0.0, 0.99]")
    assert config.steps == 7
    assert (config.model.quantizer.codebook_size, config.model.quantizer.code_dim) == (64, 8)
    assert (config.optimizer.beta1, config.optimizer.beta2) == (0.0, 0.99), "an old name"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model.quantizer.codebok_size", "64"], "codebok_size"),
        (["--data.transform.size", "40"], "data.transform.size=40 is not a multiple of 16"),
        (["--model.in_channels", "1"], "model.in_channels=1 differs from data.transform.channels=3"),
        (["--model.quantizer.kind", "vqq"], "vqq"),
    ],
)
def test_mistakes_are_user_errors(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parsed(*argv)
    assert "\n" not in str(caught.value)


def test_entropies_temperature_is_the_kinds_where_it_is_not_set():
    arguments = ["--run.folder", "r", "--model.quantizer.kind", "ibq"]
    parsed = parse(TokenizerTrainConfig, arguments, prog="train")
    assert parsed.model.quantizer.entropy_softness == 0.01
    assert QuantizerConfig(kind="lfq").entropy_softness == 1
    assert QuantizerConfig(kind="ibq", entropy_temperature=0.5).entropy_softness == 0.5
    with pytest.raises(ValueError, match=r"entropy_temperature=0 is out of range: set it to above 0, or to null"):
        QuantizerConfig(kind="ibq", entropy_temperature=0)
