"""Every layout by its keys and shapes, at its published size (without memory), and small, with what differs in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from launch.command.cli import UserError
from stage1_tokenizer.foreign import LAYOUTS
from stage1_tokenizer.foreign.base import Source
from stage1_tokenizer.foreign.checkpoint import Checkpoint, convert_checkpoint
from stage1_tokenizer.publishing.convert import build
from stage1_tokenizer.quantizers.nearest import nearest_code
from stage1_tokenizer.tokenizer.folder import model_config
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer.foreign import peer_layouts
from tests.stage1_tokenizer.foreign.peer_layouts import Shape, Shapes
from tests.stage1_tokenizer.foreign.test_sound_codecs import PEERS
from tests.stage1_tokenizer.foreign.test_video_codecs import OF_VIDEOS

SMALL = Shape(ch=32, mult=(1, 2), blocks=1, z=8, codes=16, dim=8, attention=(1,))
F8 = Shape(mult=(1, 2, 2, 4), z=4, dim=4, codes=256, attention=(3,))
PUBLISHED: dict[str, tuple[str, Shapes, dict[str, Any]]] = {
    "taming f16": ("taming", peer_layouts.taming(Shape()), {"attention_levels": None, "z_channels": 256}),
    "latent diffusion f8": ("taming", peer_layouts.taming(F8), {"z_channels": 4, "channel_multipliers": [1, 2, 2, 4]}),
    "latent diffusion f4": (
        "taming",
        peer_layouts.taming(Shape(mult=(1, 2, 4), z=3, dim=3, codes=8192, attention=())),
        {"attention_levels": [], "attention_middle": True},
    ),
    "taming f8 gumbel": (
        "taming",
        peer_layouts.gumbel(replace(F8, z=256, dim=256, codes=8192)),
        {"quantizer.kind": "gumbel", "quantizer.codebook_size": 8192},
    ),
    "LlamaGen VQ-16": (
        "llamagen",
        peer_layouts.llamagen(Shape(codes=16384, dim=8)),
        {"quantizer.l2_normalise": True, "quantizer.code_dim": 8, "quantizer.codebook_size": 16384},
    ),
    "IBQ": (
        "ibq",
        peer_layouts.taming(Shape(blocks=4, codes=262144)),
        {"quantizer.kind": "ibq", "res_blocks": 4, "quantizer.codebook_size": 262144},
    ),
    "Open-MAGVIT2": (
        "open_magvit2",
        peer_layouts.magvit(Shape(blocks=4, z=18)),
        {"backbone": "conv_plus", "quantizer.kind": "lfq", "quantizer.codebook_size": 262144, "res_blocks": 4},
    ),
    "SimVQ": (
        "simvq",
        peer_layouts.simvq(Shape(mult=(1, 2, 2, 4), z=128, dim=128, codes=65536)),
        {"quantizer.reparametrise": "affine", "conv_plus.adaptive_norm": False, "quantizer.codebook_size": 65536},
    ),
    "MaskGIT": (
        "maskgit",
        peer_layouts.maskgit(Shape()),
        {"pixel_range": "unit", "conv_plus.downsample": "pool", "conv_plus.shortcut": "inner", "quant_conv_kernel": 0},
    ),
    "VAR": (
        "var",
        peer_layouts.var(Shape(ch=160, z=32, codes=4096)),
        {"quantizer.kind": "multiscale", "quant_conv_kernel": 3, "channels": 160, "quantizer.code_dim": 32},
    ),
    "amused": (
        "diffusers",
        peer_layouts.diffusers(Shape(mult=(1, 2, 2, 4, 6), z=64, dim=64, codes=8192, attention=())),
        {"attention": False, "channel_multipliers": [1, 2, 2, 4, 6], "z_channels": 64},
    ),
}
"""Layout, keys and shapes, and some of the settings that must be found."""


def source(layout: str, shapes: Shapes, seed: int | None = 0) -> Source:
    """Random tensors; None: without memory."""
    generator = torch.Generator().manual_seed(seed or 0)

    def made(shape: tuple[int, ...]) -> Tensor:
        if seed is None:
            return torch.empty(shape, device="meta")
        return torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5

    return Source(layout, "peer.ckpt", {name: made(shape) for name, shape in shapes.items()}, {}, {}, {})


def value(settings: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        settings = settings[part]
    return settings


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_layout_is_ours_renamed(name: str):
    layout, shapes, expected = PUBLISHED[name]
    made = LAYOUTS[layout].convert(source(layout, shapes, seed=None))
    with torch.device("meta"):
        tokenizer = Tokenizer(model_config(made.model, Path("peer.ckpt")))
    ours = {key: tuple(tensor.shape) for key, tensor in tokenizer.weights().items()}
    assert {key: tuple(tensor.shape) for key, tensor in made.weights.items()} == ours
    assert {key: value(made.model, key) for key in expected} == expected


def test_every_layout_has_a_published_form():
    assert set(LAYOUTS) == {layout for layout, _, _ in PUBLISHED.values()} | {*PEERS, "wavtokenizer", *OF_VIDEOS}


def pictures(size: int = 16, seed: int = 3) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_open_magvit2_numbers_its_codes_from_the_lowest_bit():
    given = source("open_magvit2", peer_layouts.magvit(SMALL))
    tokenizer = build(LAYOUTS["open_magvit2"].convert(given), "here")
    bits_BLhw = tokenizer.encoder(pictures()).flip(1) > 0  # the peer's channel 0 is our last one
    worth_L = 2 ** torch.arange(SMALL.z)
    assert torch.equal(tokenizer.encode(pictures()), (bits_BLhw * worth_L[:, None, None]).sum(1))
    latents = tokenizer.quantizer.embed(tokenizer.encode(pictures()))
    plain = torch.nn.functional.conv2d(latents.flip(1), given.weights["decoder.conv_in.weight"], padding=1)
    bias = given.weights["decoder.conv_in.bias"][:, None, None]
    assert torch.allclose(tokenizer.decoder.conv_in(latents), plain + bias, atol=1e-5)


@torch.no_grad()
def test_maskgit_has_pictures_in_0_to_1():
    given = source("maskgit", peer_layouts.maskgit(SMALL))
    tokenizer = build(LAYOUTS["maskgit"].convert(given), "here")
    unit = (pictures() + 1) / 2
    rows = tokenizer.encoder(unit).movedim(1, -1).flatten(0, -2)
    codes = nearest_code(rows, given.weights["quantize.embedding.weight"]).view(2, 8, 8)
    assert torch.equal(tokenizer.encode(pictures()), codes)
    features = tokenizer.decoder.features(tokenizer.quantizer.embed(codes))
    theirs = torch.nn.functional.conv2d(
        features, given.weights["decoder.conv_out.weight"], given.weights["decoder.conv_out.bias"], padding=1
    )
    assert torch.allclose(tokenizer.decoder(tokenizer.quantizer.embed(codes)), theirs * 2 - 1, atol=1e-5)


@torch.no_grad()
def test_simvq_has_the_codebook_that_its_projection_gives():
    given = source("simvq", peer_layouts.simvq(SMALL))
    tokenizer = build(LAYOUTS["simvq"].convert(given), "here")
    weight, bias = (given.weights[f"quantize.embedding_proj.{name}"] for name in ("weight", "bias"))
    code_KD = given.weights["quantize.embedding.weight"] @ weight.T + bias
    embedded = tokenizer.quantizer.embed(torch.arange(16).view(1, 4, 4))
    assert torch.allclose(embedded.flatten(2)[0].T, code_KD, atol=1e-6)
    assert not tokenizer.quantizer.embedding.weight.requires_grad


def test_var_splits_its_attention_and_counts_its_scales():
    given = source("var", peer_layouts.var(SMALL, scales=10))
    made = LAYOUTS["var"].convert(given)
    joint = given.weights["encoder.mid.attn_1.qkv.weight"]
    assert torch.equal(made.weights["encoder.mid.attn_1.k.weight"], joint[64:128])
    with pytest.raises(UserError, match=r"has 7 scales, not 10 .*--model\.quantizer\.scales"):
        LAYOUTS["var"].convert(source("var", peer_layouts.var(SMALL, scales=7)))


def test_llamagen_counts_its_decoder_from_the_lowest_level():
    given = source("llamagen", peer_layouts.llamagen(SMALL))
    made = LAYOUTS["llamagen"].convert(given)
    name = "upsample.conv.weight"
    assert torch.equal(made.weights[f"decoder.up.1.{name}"], given.weights[f"decoder.conv_blocks.0.{name}"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_layout_is_recognised(layout: str):
    shapes = peer_layouts.llamagen(SMALL) if layout != "llamagen" else peer_layouts.maskgit(SMALL)
    likely = "llamagen" if layout != "llamagen" else "maskgit"
    with pytest.raises(UserError, match=f"isn't in {layout}'s layout, .*--from {likely}$"):
        convert_checkpoint(
            Checkpoint(Path("last.pt"), dict(source(layout, shapes, seed=None).weights), {}, None), layout
        )
