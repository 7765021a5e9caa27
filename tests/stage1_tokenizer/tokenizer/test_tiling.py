"""Large pictures in tiles: equal to the picture at once where that is possible, without seams where it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.networks.maskgit import AdaptiveNorm
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.tile_norms import SharedNorms
from stage1_tokenizer.tokenizer.tiling import TiledTokenizer, first_positions
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.small_backbones import BACKBONES

LOCAL = {
    "conv": replace(BACKBONES["conv"], attention=False, channel_multipliers=[1, 2]),
    "maskgit": replace(BACKBONES["maskgit"], channel_multipliers=[1, 2]),
}
"""Networks without attention, of stride 2."""


def picture(height: int, width: int) -> Tensor:
    """Waves of several lengths, in [-1, 1]."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([(x / 9 + y / 23).sin(), (x / 31).cos() * (y / 7).sin(), ((x - y) / 13).sin()])[None]


@pytest.mark.parametrize("name", LOCAL)
def test_tiles_with_enough_context_equal_the_whole_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without group norm, each value depends on a neighbourhood; the outer quarter of the overlap holds all of it."""
    monkeypatch.setattr(Norm, "forward", lambda self, h: F.silu(h * self.weight[0]) if self.swish else h)
    torch.manual_seed(0)
    tokenizer = Tokenizer(LOCAL[name]).double().eval()
    tiled = TiledTokenizer(tokenizer, tile=128, overlap=64, shared=False)
    x_BCHW = picture(128, 192).double()
    recon_BCHW, codes = tokenizer.reconstruct(x_BCHW)
    got_BCHW, got_codes = tiled.reconstruct(x_BCHW)
    assert codes is not None and got_codes is not None and torch.equal(got_codes, codes)
    torch.testing.assert_close(got_BCHW, recon_BCHW)
    assert torch.equal(tiled.encode(x_BCHW), codes)
    torch.testing.assert_close(tiled.decode(codes), recon_BCHW)
    narrow = TiledTokenizer(tokenizer, tile=128, overlap=0, shared=False)
    assert not torch.allclose(narrow.decode(codes), recon_BCHW)


def test_different_tiles_are_blended_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What still shifts a tile as a whole shows no edge: here each tile is of one grey, as different as can be."""
    tokenizer = Tokenizer(BACKBONES["conv"]).eval()
    greys = iter([-1.0, 1.0] * 12)
    monkeypatch.setattr(tokenizer.decoder, "forward", lambda z: z.new_full((1, 3, 64, 64), next(greys)))
    codes = torch.zeros(1, 40, 40, dtype=torch.int64)
    row_W = TiledTokenizer(tokenizer, tile=64, overlap=32, shared=False).decode(codes)[0, 0, 0]
    assert row_W.tolist()[:40] == [-1.0] * 40  # the first tile alone, and the quarter where the next one is context
    assert row_W.max() == 1 and row_W.diff().abs().max() <= 2 / 16 + 1e-6
    greys = iter([-1.0, 1.0] * 12)
    assert TiledTokenizer(tokenizer, tile=64, overlap=0, shared=False).decode(codes)[0, 0, 0].diff().abs().max() == 2


@pytest.mark.parametrize("swish", [True, False])
def test_tiles_with_shared_norm_statistics_equal_the_whole_picture(swish: bool) -> None:
    torch.manual_seed(0)
    norm, adaptive = Norm(8, swish=swish), AdaptiveNorm(4, 8)
    nn.init.normal_(norm.weight)
    h_BCHW, z_BDhw = torch.randn(2, 8, 6, 12) + torch.arange(12), torch.randn(2, 4, 6, 12) * torch.arange(12)
    tiles = list(zip(h_BCHW.split(4, 3), z_BDhw.split(4, 3), strict=True))
    norms = SharedNorms(nn.ModuleList([norm, adaptive]))
    with norms.gathered():
        for h, z in tiles:
            adaptive(norm(h), z)
    with norms.applied():
        shared = torch.cat([norm(h) for h, _ in tiles], 3)
    torch.testing.assert_close(shared, norm(h_BCHW), atol=1e-5, rtol=1e-5)
    norms = SharedNorms(adaptive)
    with norms.gathered():
        for h, z in tiles:
            adaptive(h, z)
    with norms.applied():
        shared = torch.cat([adaptive(h, z) for h, z in tiles], 3)
    torch.testing.assert_close(shared, adaptive(h_BCHW, z_BDhw), atol=0.1, rtol=0)  # N positions beside N - 1
    alone = torch.cat([adaptive(h, z) for h, z in tiles], 3)
    assert (alone - adaptive(h_BCHW, z_BDhw)).abs().max() > 0.5, "statistics are each tile's again"
    assert not SharedNorms(Tokenizer(BACKBONES["vit"]))


def test_networks_get_at_most_one_tile() -> None:
    tokenizer = Tokenizer(BACKBONES["conv"]).eval()
    seen: list[tuple[int, ...]] = []
    for part in (tokenizer.encoder, tokenizer.decoder):
        part.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[2:])))
    x_BCHW = picture(100, 64)
    recon_BCHW, codes = TiledTokenizer(tokenizer, tile=32, overlap=8).reconstruct(x_BCHW)
    assert recon_BCHW.shape == x_BCHW.shape and codes is not None and codes.shape == (1, 25, 16)
    assert set(seen) == {(32, 32), (8, 8)} and len(seen) == 2 * 2 * 4 * 3, "two passes over each"


def test_one_tile_equals_no_tiling() -> None:
    tokenizer = Tokenizer(BACKBONES["conv"]).eval()
    x_BCHW = picture(32, 24)
    assert torch.equal(TiledTokenizer(tokenizer).reconstruct(x_BCHW)[0], tokenizer.reconstruct(x_BCHW)[0])
    assert TiledTokenizer(tokenizer).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("kind", ["vq", "residual", "product", "lfq"])
def test_codes_of_tiles_have_the_form_of_the_kind(kind: str) -> None:
    tokenizer = tiny.tokenizer(kind)
    tiled = TiledTokenizer(tokenizer, tile=16, overlap=4)
    codes = tiled.encode(torch.rand(2, 1, 40, 16))
    assert codes.shape[1:] == tokenizer.codes_shape((40, 16))
    assert tiled.decode(codes).shape == (2, 1, 40, 16)


def test_tiles_cover_every_position() -> None:
    assert first_positions(10, 4, 1) == [0, 3, 6] and first_positions(9, 4, 1) == [0, 3, 5]
    assert first_positions(3, 4, 1) == first_positions(4, 4, 1) == [0]


def test_bad_tiles_are_refused() -> None:
    tokenizer = Tokenizer(BACKBONES["conv"]).eval()
    with pytest.raises(ValueError, match=r"tile=30 must be a multiple of the stride 4, .* set it to 32"):
        TiledTokenizer(tokenizer, tile=30)
    with pytest.raises(ValueError, match=r"overlap=40 is more than half of tile=64: set it to 32"):
        TiledTokenizer(tokenizer, tile=64, overlap=40)
    with pytest.raises(ValueError, match=r"latent_tokens=5 describe a whole picture.* resize the picture to 32"):
        TiledTokenizer(Tokenizer(BACKBONES["titok"]), tile=64)
