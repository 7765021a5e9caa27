"""Tokenizers of texts: their loss term and figures against plain ones, and settings that are refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from data.config import DataConfig
from data.texts.config import TextConfig
from data.texts.windows import ByteBatch, one_hot
from launch.config import RunConfig
from stage1_tokenizer.config.losses import LossConfig
from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.losses.bytes import CrossEntropyTerm
from stage1_tokenizer.measuring.text_scores import measure_texts

BYTES = torch.tensor([[72, 105, 33, 0], [0, 200, 7, 7]], dtype=torch.uint8)
LENGTHS = torch.tensor([3, 4])


def logits() -> torch.Tensor:
    return torch.randn(2, 256, 4, generator=torch.Generator().manual_seed(0))


def test_the_term_is_the_cross_entropy_of_the_bytes_that_are_there() -> None:
    y_BCT = logits()
    per_byte_BT = F.cross_entropy(y_BCT, BYTES.long(), reduction="none")
    expected = (per_byte_BT[0, :3].sum() + per_byte_BT[1].sum()) / 7
    value, gradient = CrossEntropyTerm(2.0).at(y_BCT, one_hot(BYTES, LENGTHS))
    assert torch.allclose(value, expected)
    assert not gradient[0, :, 3].any(), "nothing is behind the end"
    assert gradient[1, :, 3].any()


def test_figures_count_bits_and_exact_bytes_of_all_batches() -> None:
    y_BCT = logits()
    y_BCT[1] = 0
    y_BCT[1].scatter_(0, BYTES[1:].long(), 50.0)
    codes_BN = torch.tensor([[1, 2], [3, 1]])

    class Fake:
        codebook_size, codebooks = 16, 1

        def __call__(self, x_BCT: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(x_BCHW=y_BCT, codes_Bhw=codes_BN)

    tokenizer: Any = Fake()
    batch = ByteBatch(0, BYTES, LENGTHS, torch.full((2,), -1), ["a", "b"])
    found = measure_texts(tokenizer, [batch, batch], device=torch.device("cpu"), total=lambda x: x)
    right = int((y_BCT[0, :, :3].argmax(0) == BYTES[0, :3]).sum())
    assert found["exact_bytes"] == pytest.approx((4 + right) / 7)
    assert found["exact_windows"] == 0.5
    assert found["rate_bits"] == pytest.approx(2 * 2 * 4 / 7)
    nats = F.cross_entropy(y_BCT, BYTES.long(), reduction="none")
    bits = float(nats[0, :3].sum() + nats[1].sum()) / 7 / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert found["samples"] == 4
    assert found["codes_used"] == 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"in_channels": 3}, "model.in_channels=3 is not for texts"),
        ({"pixel_weight": 1.0}, "loss.pixel_weight=1.0 is not for texts"),
        ({"terms": {}}, "loss.terms has no cross_entropy"),
        ({"length": 250}, "length=250 is not a multiple of 4"),
    ],
)
def test_settings_of_other_kinds_are_refused(changes: dict[str, Any], why: str) -> None:
    values = {"in_channels": 256, "pixel_weight": 0, "terms": {"cross_entropy": 1}, "length": 256} | changes
    off: Any = {"perceptual": {"weight": 0}, "adversarial": {"weight": 0, "adaptive": False}}
    from stage1_tokenizer.config.losses import AdversarialConfig, PerceptualConfig

    loss = LossConfig(
        pixel_weight=values["pixel_weight"],
        terms=values["terms"],
        perceptual=PerceptualConfig(**off["perceptual"]),
        adversarial=AdversarialConfig(**off["adversarial"]),
    )
    model = ModelConfig(
        spatial_dims=1, in_channels=values["in_channels"], channels=32, channel_multipliers=[1, 1, 1], attention=False
    )
    data = DataConfig(index="index.json", transform=TextConfig(length=values["length"]))
    with pytest.raises(ValueError, match=why):
        TokenizerTrainConfig(run=RunConfig(folder="run"), data=data, model=model, loss=loss)
