"""Types follow the weights: tokenizers of every kind work whole in bf16, fp16 and float64, and under autocast.

(Known trouble of others: lucidrains/vector-quantize-pytorch#114.)
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.quantizers import KINDS
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.tiling import TiledTokenizer
from tests.stage1_tokenizer.quantizers.test_kinds import EVERY
from tests.stage1_tokenizer.small_backbones import BACKBONES
from tests.stage1_tokenizer.tiny import TRANSFORM

KIND_SETTINGS = {
    **EVERY,
    "gaussian": replace(EVERY["vq"], kind="gaussian"),
    "fsq-many": replace(EVERY["fsq"], levels=[301, 4]),
}
DTYPES = (torch.bfloat16, torch.float16, torch.float64)
kinds = pytest.mark.parametrize("kind", KIND_SETTINGS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def tokenizer_of(kind: str) -> Tokenizer:
    """16×16 grey pixels, 4×4 latents; code vectors far enough apart that they are all used."""
    torch.manual_seed(0)
    quantizer = KIND_SETTINGS[kind]
    z_channels = 8
    model = ModelConfig(
        in_channels=1,
        channels=8,
        channel_multipliers=[1, 1, 1],
        res_blocks=1,
        z_channels=z_channels,
        quantizer=quantizer,
    )
    tokenizer = Tokenizer(model, TRANSFORM).eval()
    with torch.no_grad():
        for module in tokenizer.quantizer.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.normal_()
    return tokenizer


def pictures(channels: int = 1, size: int = 16) -> Tensor:
    return torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def near(x_BCHW: Tensor, whole_BCHW: Tensor) -> bool:
    """Whether pictures agree with those of float32 up to the rounding of their type."""
    mean = {torch.bfloat16: 0.02, torch.float16: 0.003, torch.float64: 1e-5}[x_BCHW.dtype]
    return float((x_BCHW.double() - whole_BCHW.double()).abs().mean()) < mean


def test_every_kind_is_tried() -> None:
    assert {settings.kind for settings in KIND_SETTINGS.values()} == set(KINDS)


@dtypes
@kinds
def test_every_kind_encodes_decodes_and_reconstructs(kind: str, dtype: torch.dtype) -> None:
    """Codes are those that float32 arithmetic gives for the same latents; decoding them is reconstructing."""
    tokenizer, x_BCHW = tokenizer_of(kind).to(dtype), pictures()
    recon_BCHW, codes = tokenizer.reconstruct(x_BCHW)
    assert recon_BCHW.dtype == dtype and recon_BCHW.isfinite().all()
    assert tokenizer.reconstruct(x_BCHW.to(dtype))[0].dtype == dtype
    if codes is None:
        return
    assert torch.equal(tokenizer.encode(x_BCHW), codes)
    assert torch.equal(tokenizer.decode(codes), recon_BCHW)
    z_BDhw = tokenizer._latents(x_BCHW)
    wide = copy.deepcopy(tokenizer.quantizer).to(torch.float64 if dtype == torch.float64 else torch.float32)
    expected = wide(z_BDhw if dtype == torch.float64 else z_BDhw.float())
    assert torch.equal(codes, expected.codes)
    assert torch.equal(tokenizer.quantizer.embed(codes), expected.latents.to(dtype))
    assert torch.equal(tokenizer.quantizer(z_BDhw).latents, expected.latents.to(dtype))


@kinds
def test_half_precision_is_close_to_float32(kind: str) -> None:
    whole, half = tokenizer_of(kind), tokenizer_of(kind).to(torch.bfloat16)
    if not whole.codebook_size:
        return
    codes = whole.encode(pictures())
    assert near(half.decode(codes), whole.decode(codes))


@kinds
def test_autocast_changes_no_code_of_the_same_latents(kind: str) -> None:
    """Code vectors and the search stay float32: also those of a codebook behind a linear layer or a convolution."""
    tokenizer = tokenizer_of(kind)
    if not tokenizer.codebook_size:
        return
    z_BDhw = tokenizer._latents(pictures()).detach()
    plain = tokenizer.quantizer(z_BDhw)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tokenizer.quantizer(z_BDhw)
        again = tokenizer.quantizer.embed(mixed.codes)
        assert tokenizer.decode(tokenizer.encode(pictures())).isfinite().all()
    assert torch.equal(mixed.codes, plain.codes) and torch.equal(mixed.latents, plain.latents)
    assert torch.equal(again, plain.latents)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@kinds
def test_a_step_in_half_precision_has_gradients_and_counts_in_float32(kind: str, dtype: torch.dtype) -> None:
    tokenizer = tokenizer_of(kind).to(dtype).train()
    for _ in range(2):
        made = tokenizer(pictures())
        (made.x_BCHW.float().square().mean() + sum(loss.float() for loss in made.losses.values())).backward()
    gradients = [weight.grad for weight in tokenizer.encoder.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    for name, buffer in tokenizer.named_buffers():
        assert ".statistics." not in name or buffer.dtype not in (torch.bfloat16, torch.float16), name


@dtypes
@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_works_in_every_type(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(BACKBONES[name]).eval()
    whole = tokenizer.decode(tokenizer.encode(pictures(3, 32)))
    codes = tokenizer.encode(pictures(3, 32))
    tokenizer.to(dtype)
    assert tokenizer.encode(pictures(3, 32)).shape == codes.shape
    assert near(tokenizer.decode(codes), whole)
    assert tokenizer.decode(codes).dtype == dtype


@dtypes
@pytest.mark.parametrize("name", ["conv", "magvit2", "vit_sincos"])
def test_tiles_work_in_every_type(name: str, dtype: torch.dtype) -> None:
    """With norms that share statistics over the tiles; the result has the weights' type too."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(BACKBONES[name]).eval()
    x_BCHW = pictures(3, 96)[:1]
    whole, codes = TiledTokenizer(tokenizer, tile=64, overlap=32).reconstruct(x_BCHW)
    tiled = TiledTokenizer(tokenizer.to(dtype), tile=64, overlap=32)
    recon_BCHW, _ = tiled.reconstruct(x_BCHW)
    assert recon_BCHW.dtype == dtype
    assert codes is not None and near(tiled.decode(codes), whole)


@dtypes
@pytest.mark.parametrize("kind", ["vq", "fsq", "multiscale"])
def test_a_tokenizer_is_saved_and_loaded_in_its_type(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind).to(dtype)
    tokenizer.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert {weight.dtype for weight in loaded.parameters()} == {dtype}
    codes = tokenizer.encode(pictures())
    assert torch.equal(loaded.encode(pictures()), codes)
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))


def test_a_quantizer_kept_in_float32_beside_networks_in_bf16(tmp_path: Path) -> None:
    """A usual mixture: each part gets the type that its weights have, also after saving and loading."""
    tokenizer = tokenizer_of("vq").to(torch.bfloat16)
    tokenizer.quantizer.float()
    tokenizer.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    recon_BCHW, codes = tokenizer.reconstruct(pictures())
    assert recon_BCHW.dtype == torch.bfloat16 and codes is not None
    assert torch.equal(loaded.decode(codes), recon_BCHW)


def test_pil_pictures_go_in_and_out_of_a_bf16_tokenizer() -> None:
    tokenizer = tokenizer_of("vq").to(torch.bfloat16)
    (shown,) = tokenizer.to_pil(tokenizer.decode(tokenizer.encode(tokenizer.to_pil(pictures()[:1]))))
    assert shown.size == (16, 16)
