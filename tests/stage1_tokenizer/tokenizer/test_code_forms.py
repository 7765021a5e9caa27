"""Tokenizers with several codes a position: encode, decode, what is counted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stage1_tokenizer.config.training import QuantizerConfig
from stage1_tokenizer.measuring.scores import COUNTED, Scores, batch_use, code_statistics
from stage1_tokenizer.quantizers.multiscale import _nearest_tick
from stage1_tokenizer.quantizers.usage import count_codes
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer import tiny

FORMS = {"residual": (3, 8, 8), "product": (3, 8, 8), "multiscale": (1 + 16 + 64,), "fsq": (8, 8), "bsq": (8, 8)}


def tokenizer(kind: str) -> Tokenizer:
    torch.manual_seed(0)
    quantizer = QuantizerConfig(kind=kind, codebook_size=32, code_dim=6, codebooks=3, scales=[1, 4, 8])  # type: ignore[arg-type]
    return Tokenizer(replace(tiny.tokenizer().config, quantizer=quantizer), tiny.TRANSFORM).eval()


@pytest.mark.parametrize("kind", FORMS)
def test_codes_of_every_form_decode_to_the_reconstruction(kind: str, tmp_path: Path) -> None:
    model = tokenizer(kind)
    x = torch.rand(2, 1, 16, 16) * 2 - 1
    codes = model.encode(x)
    assert codes.shape == (2, *FORMS[kind])
    assert model.codes_shape(16) == FORMS[kind]
    assert torch.equal(model.decode(codes), model.reconstruct(x)[0])
    with pytest.raises(ValueError, match="codes of shape"):
        model.decode(codes.repeat_interleave(2, 1) if len(FORMS[kind]) != 2 else codes[0])
    model.save_pretrained(tmp_path)
    assert torch.equal(Tokenizer.from_pretrained(tmp_path).encode(x), codes)


def test_the_first_codes_of_residual_decode_to_a_coarser_picture() -> None:
    model = tokenizer("residual")
    codes = model.encode(torch.rand(2, 1, 16, 16) * 2 - 1)
    first, second = (
        book.rows(codes[:, g].flatten()).view(2, 8, 8, 6) for g, book in enumerate(model.quantizer.books[:2])
    )
    assert torch.equal(model.quantizer.embed(codes[:, :2]), (first + second).movedim(-1, 1))
    assert model.decode(codes[:, :1]).shape == (2, 1, 16, 16)
    assert not torch.equal(model.decode(codes[:, :1]), model.decode(codes))


def test_each_codebook_is_counted_by_itself() -> None:
    idx_BGhw = torch.zeros(2, 2, 1, 4, dtype=torch.int64)
    idx_BGhw[:, 1] = torch.arange(4)
    count_GK = count_codes(idx_BGhw, 4, 2)
    assert count_GK.tolist() == [[8, 0, 0, 0], [2, 2, 2, 2]]
    assert code_statistics(count_GK) == {
        "codes_used": 5,
        "codebook_usage": 5 / 8,
        "entropy_bits": pytest.approx(1.0),
        "perplexity": pytest.approx(2.0),
    }
    use = batch_use(idx_BGhw, 4, 2)
    assert int(use["codes/used"]) == 5
    assert float(use["codes/perplexity"]) == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["residual", "multiscale", "bsq"])
def test_bits_per_pixel_count_every_code(kind: str) -> None:
    model, x = tokenizer(kind), torch.rand(2, 1, 16, 16) * 2 - 1
    scores = Scores(model.codebook_size, x.device, model.codebooks)
    scores.add({"psnr": torch.ones(2)}, model.encode(x), x)
    found = scores.result(("psnr",))
    assert found["bits_per_pixel"] == pytest.approx(math.prod(FORMS[kind]) * 5 / 256)
    assert 0 < found["codebook_usage"] <= 1


def test_a_codebook_too_large_to_count_still_has_its_rate() -> None:
    x, idx = torch.zeros(1, 1, 8, 8), torch.full((1, 2, 2), 2**35)
    scores = Scores(2**36, x.device)
    scores.add({"psnr": torch.ones(1)}, idx, x)
    found = scores.result(("psnr",))
    assert COUNTED < 2**36
    assert found["bits_per_pixel"] == 4 * 36 / 64
    assert "perplexity" not in found
    assert batch_use(idx, 2**36) == {}


def test_ten_scales_share_four_convolutions_as_in_var() -> None:
    """Two of the ten lie in the middle of two convolutions; this is what the published model's arithmetic gives."""
    found = [_nearest_tick(number / 9, 4) for number in range(10)]
    assert found == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
