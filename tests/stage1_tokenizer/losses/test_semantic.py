"""loss.semantic: the forms against plain formulas in float64, the frozen networks, and what the projector is given."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from data.config import DataConfig
from data.pictures.config import TransformConfig
from launch.command.cli import UserError
from launch.config import RunConfig
from stage1_tokenizer.config.model import ModelConfig, TransformerConfig, VitConfig
from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.config.semantic import SemanticConfig
from stage1_tokenizer.config.training import LossConfig, TokenizerTrainConfig
from stage1_tokenizer.losses.semantic import (
    SemanticTerm,
    Teacher,
    contrastive_form,
    cosine_form,
    margin_form,
)
from stage1_tokenizer.tokenizer.codec import Codec
from stage1_tokenizer.tokenizer.projector import aligned_features, attach
from tests.stage1_tokenizer.losses.tiny_networks import BEFORE, DEVIATION, MEAN, WIDTH, save


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(one: list[float], other: list[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.hypot(*one) / math.hypot(*other)


def test_cosine_and_margin_are_the_published_formulas() -> None:
    own, given = numbers(2, 3, 5), numbers(2, 3, 5, seed=1)
    one, other = own.tolist(), given.tolist()
    each = [cosine(one[b][n], other[b][n]) for b in range(2) for n in range(3)]
    near = [max(0.0, 1 - 0.5 - value) for value in each]
    far = [
        max(0.0, abs(cosine(one[b][n], one[b][m]) - cosine(other[b][n], other[b][m])) - 0.25)
        for b in range(2)
        for n in range(3)
        for m in range(3)
    ]

    assert float(cosine_form(own, given)) == pytest.approx(1 - sum(each) / 6, abs=1e-9)
    assert float(margin_form(own, given, (0.5, 0.25))) == pytest.approx(sum(near) / 6 + sum(far) / 18, abs=1e-9)
    assert abs(float(cosine_form(own, 3 * own))) < 1e-12
    assert abs(float(margin_form(own, 3 * own, (0.0, 0.0)))) < 1e-12


@pytest.mark.parametrize("unit_length", [False, True])
def test_contrastive_is_clips_loss(unit_length: bool) -> None:
    own, given = numbers(4, 5), numbers(4, 5, seed=1)
    one, other = own.tolist(), given.tolist()
    dot = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in other] for x in one]
    if unit_length:
        dot = [[cosine(x, y) for y in other] for x in one]

    def missed(rows: list[list[float]]) -> float:
        return sum(math.log(sum(math.exp(2 * v) for v in row)) - 2 * row[i] for i, row in enumerate(rows)) / 4

    expected = (missed(dot) + missed([list(column) for column in zip(*dot, strict=True)])) / 2
    assert float(contrastive_form(own, given, scale=2, unit_length=unit_length)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", BEFORE)
def test_patches_are_those_of_the_network_without_class_and_registers(kind: str, tmp_path: Path) -> None:
    config = SemanticConfig(weight=1, network=save(tmp_path, kind), size=32)
    teacher = Teacher(config)
    x = torch.rand(2, 1, 24, 24) * 2 - 1

    features = teacher(x)

    assert teacher.grid(24, 24) == (16, 16)
    assert features.patches_BME.shape == (2, 256, WIDTH)
    assert features.pooled_BE.shape == (2, WIDTH)
    assert not any(weight.requires_grad for weight in teacher.parameters())
    network: Any = transformers.AutoModel.from_pretrained(tmp_path).eval()
    network = getattr(network, "vision_model", network)
    larger = torch.nn.functional.interpolate(x.expand(-1, 3, -1, -1), (32, 32), mode="bicubic")
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    with torch.no_grad():
        output = network(pixel_values=((larger + 1) / 2 - mean) / deviation, **teacher.others)
    assert torch.allclose(features.patches_BME, output.last_hidden_state[:, BEFORE[kind] :], atol=1e-5)
    assert torch.allclose(features.pooled_BE, output.pooler_output, atol=1e-5)


def test_other_folders_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loss.semantic.network=.*config.json"):
        Teacher(SemanticConfig(weight=1, network=str(tmp_path)))
    network = save(tmp_path, "siglip")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"set loss\.semantic\.normalise to imagenet"):
        Teacher(SemanticConfig(weight=1, network=network))
    with pytest.raises(ValueError, match=r"loss.semantic.network is not set"):
        SemanticConfig(weight=1)


def test_a_pooling_layer_without_weights_gives_way_to_the_class_token(tmp_path: Path) -> None:
    network = save(tmp_path, "vit")
    teacher = Teacher(SemanticConfig(weight=1, network=network, size=16))
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        tokens = teacher.network(pixel_values=teacher.enter(x)).last_hidden_state
    assert torch.equal(teacher(x).pooled_BE, tokens[:, 0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"freeze": ["encoder"]}, r"at=latents trains nothing of the tokenizer with freeze=\['encoder'\]"),
        ({"freeze": ["encoder"], "at": "decoder", "adaptive": True}, r"adaptive=true needs a trained encoder"),
        ({"at": "decoder", "micro_batch": 1}, r"at=decoder is not supported with data\.micro_batch"),
        ({"at": "codes", "branch": 0}, r"loss\.semantic\.branch=0 is out of range"),
        ({"branch": 0}, r"branch=0 is not supported with loss\.semantic\.at=latents"),
        ({"margins": [0.5]}, r"margins=\[0\.5\] is out of range: set it to two numbers"),
    ],
)
def test_settings_that_dont_go_together_are_refused(settings: dict[str, Any], words: str) -> None:
    freeze, micro_batch = settings.pop("freeze", []), settings.pop("micro_batch", None)
    with pytest.raises(ValueError, match=words):
        TokenizerTrainConfig(
            run=RunConfig(folder="unused"),
            data=DataConfig(index="unused", micro_batch=micro_batch, transform=TransformConfig(size=16)),
            model=replace(CONV, in_channels=3),
            loss=LossConfig(semantic=SemanticConfig(weight=1, network="unused", **settings)),
            freeze=freeze,
        )


def test_positions_have_to_agree(tmp_path: Path) -> None:
    term = SemanticTerm(*given(save(tmp_path), size=32))
    term.check([16, 16], [16, 16])
    term.check([16, 16], [64])
    for wrong in ([8, 8], [100]):
        with pytest.raises(UserError, match=r"gives 16×16 positions"):
            term.check([16, 16], wrong)
    SemanticTerm(*given(term.config.network or "", form="contrastive")).check([16, 16], [8, 8])


def given(network: str, **settings: Any) -> tuple[SemanticConfig, Teacher]:
    config = SemanticConfig(weight=1, network=network, hidden=8, **settings)
    return config, Teacher(config)


CONV = ModelConfig(in_channels=1, channels=8, channel_multipliers=[1, 1], res_blocks=1, z_channels=8)
VIT = ModelConfig(
    backbone="vit",
    in_channels=1,
    z_channels=8,
    vit=VitConfig(16, 2, 16, encoder=TransformerConfig(8, 2, 2), decoder=TransformerConfig(8, 2, 2)),
)


@pytest.mark.parametrize(
    ("model", "settings", "positions", "inputs"),
    [
        (CONV, {"at": "latents"}, 64, 4),
        (CONV, {"at": "codes"}, 64, 4),
        (CONV, {"at": "decoder"}, 64, 8),
        (VIT, {"at": "codes"}, 16, 4),
        (VIT, {"at": "decoder", "layer": 1}, 64, 8),
        (VIT, {"at": "codes", "form": "contrastive"}, 1, 4),
    ],
)
def test_what_is_aligned(model: ModelConfig, settings: dict[str, Any], positions: int, inputs: int) -> None:
    torch.manual_seed(0)
    codec = Codec(replace(model, quantizer=QuantizerConfig(codebook_size=8, code_dim=4)))
    before = list(codec.weights())
    attach(codec, SemanticConfig(network="unused", projector="linear", **settings), 16)
    x = torch.rand(2, 1, 16, 16) * 2 - 1

    features = codec.train()(x).aligned_BNE

    assert features.shape == (2, positions, 16)
    assert codec.projector.layers.weight.shape == (16, inputs)  # type: ignore[union-attr]
    features.square().sum().backward()
    reached = {name.split(".")[0] for name, weight in codec.named_parameters() if weight.grad is not None}
    assert reached >= {"encoder", "projector"}
    assert ("decoder" in reached) == (settings["at"] == "decoder")
    assert list(codec.weights()) == before, "releases have no projector"
    assert torch.equal(aligned_features(codec.eval(), x), aligned_features(codec, x))


def test_one_branch_of_a_product_quantizer_is_aligned_alone() -> None:
    codec = Codec(replace(CONV, quantizer=QuantizerConfig(kind="product", codebooks=2, codebook_size=8, code_dim=6)))
    attach(codec, SemanticConfig(network="unused", at="codes", branch=-1, projector="linear"), 5)
    latents = numbers(2, 6, 4, 4).float()

    features = codec.projector(latents, latents, codec.decoder)  # type: ignore[misc]

    assert torch.equal(features, latents[:, 3:].flatten(2).mT @ codec.projector.layers.weight.T)  # type: ignore[union-attr]


def test_few_latent_tokens_are_each_compared_with_several_positions_in_a_row(tmp_path: Path) -> None:
    term = SemanticTerm(*given(save(tmp_path), size=16))
    x = torch.rand(2, 1, 16, 16) * 2 - 1
    own = numbers(2, 16, WIDTH).float()

    value, gradient = term.at(own, x)

    repeated = torch.stack([own[:, number // 4] for number in range(64)], dim=1)
    assert float(value) == pytest.approx(float(cosine_form(repeated, term.target(x))), abs=1e-6)
    assert torch.allclose(term.at(own, x, micro_batch=1)[1], gradient, atol=1e-7)
