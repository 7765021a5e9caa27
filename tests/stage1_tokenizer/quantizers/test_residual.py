"""What residual quantization has for sound: projections, dropout of codebooks, strides, the first codebooks alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.quantizers import build_quantizer
from stage1_tokenizer.quantizers.residual import ResidualQuantizer

PLAIN = QuantizerConfig(kind="residual", codebook_size=16, code_dim=4, codebooks=3)
EACH = replace(PLAIN, projections="each", latent_dim=10, l2_normalise=True)
SPLIT = replace(PLAIN, projections="split", latent_dim=10)


def built(config: QuantizerConfig) -> ResidualQuantizer:
    torch.manual_seed(0)
    quantizer = build_quantizer(config).eval()
    assert isinstance(quantizer, ResidualQuantizer)
    for book in quantizer.books:
        torch.nn.init.normal_(book.embedding.weight)
    return quantizer


def latents(config: QuantizerConfig, seed: int = 1) -> Tensor:
    return torch.randn(4, config.width or 0, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [PLAIN, EACH, SPLIT], ids=["none", "each", "split"])
def test_the_first_codebooks_alone_give_what_a_smaller_quantizer_gives(config: QuantizerConfig) -> None:
    whole, z = built(config), latents(config)
    codes = whole(z).codes
    assert codes is not None
    fewer = built(replace(config, codebooks=2))
    fewer.load_state_dict({name: whole.state_dict()[name] for name in fewer.state_dict()})
    assert torch.equal(fewer(z).codes, codes[:, :2])
    assert torch.equal(fewer.embed(codes[:, :2]), whole.embed(codes[:, :2]))
    whole.check_codes((4, 1, 8), 1)
    for shape in ((4, 4, 8), (4, 0, 8), (4, 8)):
        with pytest.raises(ValueError, match="codes of shape"):
            whole.check_codes(shape, 1)


def test_each_codebook_with_projections_is_dacs_equation() -> None:
    """The direction chooses; vectors keep their lengths; residuals and losses are as in Kumar et al. 2023."""
    quantizer, z = built(EACH), latents(EACH).requires_grad_()
    made = quantizer(z)
    rest = z.detach().movedim(1, -1).reshape(-1, 10)
    total, commitment, codes = torch.zeros_like(rest), [], []
    for book, maps in zip(quantizer.books, quantizer.maps, strict=True):
        p = maps.to_codes(rest)
        table = book.embedding.weight
        idx = (F.normalize(p, dim=1) @ F.normalize(table, dim=1).T).argmax(1)
        e = table[idx]
        out = maps.to_latents(e)
        total, rest = total + out, rest - out
        commitment.append((p - e).square().mean())
        codes.append(idx.view(4, 8))
    assert torch.equal(made.codes, torch.stack(codes, 1))
    torch.testing.assert_close(made.latents, total.view(4, 8, 10).movedim(-1, 1))
    torch.testing.assert_close(made.losses["commitment"], 0.25 * torch.stack(commitment).mean())
    made.latents.square().sum().backward()
    for maps in quantizer.maps:
        for layer in maps.children():
            assert isinstance(layer, torch.nn.Linear)
            assert layer.weight.grad is not None and layer.weight.grad.norm() > 0
    assert z.grad is not None and z.grad.norm() > 0


def test_split_codebooks_do_not_see_the_first_one() -> None:
    quantizer, z = built(SPLIT), latents(SPLIT)
    codes = quantizer(z).codes
    assert codes is not None
    torch.nn.init.normal_(quantizer.books[0].embedding.weight)
    again = quantizer(z).codes
    assert again is not None and not torch.equal(again[:, 0], codes[:, 0])
    assert torch.equal(again[:, 1:], codes[:, 1:])


@pytest.mark.parametrize("config", [PLAIN, EACH, SPLIT], ids=["none", "each", "split"])
def test_dropout_ends_the_sum_of_some_samples_with_a_drawn_codebook(config: QuantizerConfig) -> None:
    count = 256
    quantizer = built(replace(config, codebook_dropout=0.5)).train()
    z = torch.randn(count, config.width or 0, 2, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(3)
    made = quantizer(z)
    assert made.codes is not None
    ends = torch.stack(
        [(quantizer.embed(made.codes[:, :g]) - made.latents).abs().amax((1, 2)) < 1e-5 for g in (1, 2, 3)]
    )
    assert bool((ends.sum(0) == 1).all())
    share = ends.float().mean(1)
    assert share[2] == pytest.approx(0.5 + 0.5 / 3, abs=0.12) and share[0] == pytest.approx(0.5 / 3, abs=0.1)
    torch.manual_seed(3)
    assert torch.equal(quantizer(z).latents, made.latents)
    full = built(config)(z)
    assert torch.equal(quantizer.eval()(z).latents, full.latents)
    assert made.losses["commitment"] < full.losses["commitment"]
    fewest = built(replace(config, codebook_dropout=1.0, codebook_dropout_from=2)).train()
    assert set(fewest.levels_kept(3, count, z.device).tolist()) == {2, 3}  # type: ignore[union-attr]


def test_strides_share_a_code_among_neighbours() -> None:
    config = replace(EACH, strides=[4, 2, 1])
    quantizer, z = built(config), latents(config)
    codes = quantizer(z).codes
    assert codes is not None and codes.shape == (4, 3, 8)
    for g, stride in enumerate(config.strides):
        runs = codes[:, g].unflatten(1, (-1, stride))
        assert torch.equal(runs, runs[..., :1].expand_as(runs))
    pooled = quantizer(z.unflatten(2, (-1, 4)).mean(-1).repeat_interleave(4, -1)).codes
    assert pooled is not None and torch.equal(pooled[:, 0], codes[:, 0])
    odd = codes.clone()
    odd[:, 0, 1::4] = 0  # the first of a run counts
    assert torch.equal(quantizer.embed(odd), quantizer.embed(codes))
    with pytest.raises(ValueError, match="6 latents along the last axis are no multiple of 4"):
        quantizer.codes_shape((6,))
