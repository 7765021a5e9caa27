"""seanet and vocos: sizes, equations, causality, published sizes, types, releases, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.model import ModelConfig, QuantizerConfig
from stage1_tokenizer.config.sound_networks import SeanetConfig, VocosConfig
from stage1_tokenizer.layers.recompute import recompute_activations
from stage1_tokenizer.layers.waveform import Convolution1d, Snake, Upsampling1d, pad
from stage1_tokenizer.networks import seanet, vocos
from stage1_tokenizer.networks.vocos import InverseTransform, frequencies, hann
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer.small_sound import CAUSAL, DAC, MIMI, NETWORK, SOUND

names = pytest.mark.parametrize("name", SOUND)


def tokenizer_of(name: str, seed: int = 0) -> Tokenizer:
    """Its codes are latents of a first batch, so that several are used."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(SOUND[name]).train()
    with torch.no_grad():
        tokenizer(sounds(tokenizer, 32, seed))
    return tokenizer.eval()


def sounds(tokenizer: Tokenizer, frames: int = 16, seed: int = 1) -> Tensor:
    hop, channels = tokenizer.config.stride[0], tokenizer.config.in_channels
    return torch.rand(2, channels, frames * hop, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@names
def test_sounds_on_the_hop_go_in_and_out(name: str) -> None:
    tokenizer = tokenizer_of(name)
    hop = tokenizer.config.stride[0]
    for frames in (4, 20):
        x_BCT = sounds(tokenizer, frames)
        recon_BCT, codes = tokenizer.reconstruct(x_BCT)
        assert recon_BCT.shape == x_BCT.shape and codes is not None
        assert codes.shape[1:] == tokenizer.codes_shape(frames * hop)
        assert torch.equal(tokenizer.encode(x_BCT), codes)
        assert torch.equal(tokenizer.decode(codes), recon_BCT)
    with pytest.raises(ValueError, match=rf"is not a multiple of the tokenizer's stride {hop}: pad, crop to {4 * hop}"):
        tokenizer.encode(x_BCT[..., : 5 * hop - 1])
    with pytest.raises(ValueError, match=r"sounds of shape .* don't fit"):
        tokenizer.encode(x_BCT[:, 0])
    with pytest.raises(ValueError, match=r"sounds from .* are not in \[-1, 1\]"):
        tokenizer.encode(3 * x_BCT)


@names
def test_training_gives_what_blocks_give_and_every_weight_learns(name: str) -> None:
    tokenizer = tokenizer_of(name)
    x_BCT = sounds(tokenizer)
    recon_BCT, codes = tokenizer.reconstruct(x_BCT)
    made = tokenizer(x_BCT)
    assert torch.equal(made.codes_Bhw, codes)
    torch.testing.assert_close(made.x_BCHW.clamp(-1, 1), recon_BCT, atol=1e-5, rtol=1e-4)
    tokenizer.train()
    made = tokenizer(x_BCT, micro_batch=1)
    (made.x_BCHW.square().mean() + sum(made.losses.values())).backward()
    still = [key for key, weight in tokenizer.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not [key for key in still if ".embedding." not in key], still


@names
def test_decoder_is_its_last_layer_on_its_features(name: str) -> None:
    decoder = tokenizer_of(name).decoder
    z_BDt = torch.randn(1, 8, 5)
    assert torch.equal(decoder(z_BDt), decoder.last_layer(decoder.features(z_BDt)))


@pytest.mark.parametrize("name", [name for name in CAUSAL if name != "encodec_reflecting"])
def test_causal_networks_never_look_ahead(name: str) -> None:
    """Neither do codes change with later samples, nor has an output a gradient at them."""
    tokenizer = tokenizer_of(name)
    hop, x_BCT = tokenizer.config.stride[0], sounds(tokenizer)
    codes = tokenizer.encode(x_BCT)
    other = x_BCT.clone()
    other[..., 8 * hop :] = 0.5
    assert torch.equal(tokenizer.encode(other)[..., :8], codes[..., :8])
    assert not torch.equal(tokenizer.encode(other), codes)
    leaf = x_BCT.clone().requires_grad_()
    made = tokenizer.decoder(tokenizer.encoder(leaf))
    (grad,) = torch.autograd.grad(made[..., : 8 * hop].sum(), leaf)
    assert grad[..., : 8 * hop].any() and not grad[..., 8 * hop :].any()


def test_recomputed_activations_are_not_kept() -> None:
    for name in ("dac", "mimi", "vocos", "wavtokenizer"):
        kept = []
        for recompute in (False, True):
            tokenizer = tokenizer_of(name).train()
            if recompute:
                recompute_activations(tokenizer)
            saved: dict[int, int] = {}

            def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                made = tokenizer(sounds(tokenizer, 64))
            assert made.x_BCHW.requires_grad
            kept.append(sum(saved.values()))
        assert kept[1] < 0.8 * kept[0], (name, kept)


def test_convolutions_pad_as_encodec_and_dac_do() -> None:
    """Causal: all before; else the left side is longer. Transposed ones are cut at the same sides."""
    x = torch.randn(1, 2, 15)
    for causal, sides in ((True, (5, 0)), (False, (3, 2))):
        config = SeanetConfig(causal=causal, weight_norm=False)
        layer = Convolution1d(config, (2, 3, 10), stride=5)
        assert torch.equal(layer(x), F.conv1d(F.pad(x, sides), layer.conv.weight, layer.conv.bias, stride=5))
        up = Upsampling1d(config, 2, 3, 5)
        whole = F.conv_transpose1d(x, up.conv.weight, up.conv.bias, stride=5)
        assert torch.equal(up(x), whole[..., 0 if causal else 3 :][..., :75])
    shorter = Upsampling1d(replace(config, odd_trim=True), 2, 3, 5)
    theirs = F.conv_transpose1d(x, shorter.conv.weight, shorter.conv.bias, stride=5, padding=3)
    assert torch.equal(shorter(x), theirs) and theirs.shape[-1] == 74
    bare = Convolution1d(config, (2, 2, 4), stride=2, bare=True)
    assert bare.conv.bias is None
    torch.testing.assert_close(bare(torch.ones(1, 2, 2))[..., 0], bare.conv.weight.sum((1, 2))[None])
    assert pad(torch.tensor([[[1.0, 2.0]]]), 3, 1, "reflect").tolist() == [[[0.0, 0.0, 2.0, 1.0, 2.0, 0.0]]]


def test_snake_is_its_equation() -> None:
    layer, x = Snake(2).double(), torch.randn(3, 2, 5, dtype=torch.float64)
    layer.alpha.data.copy_(torch.tensor([0.5, 3.0]).view(1, 2, 1))
    expected = torch.stack([x[:, c] + (a * x[:, c]).sin() ** 2 / a for c, a in enumerate((0.5, 3.0))], 1)
    torch.testing.assert_close(layer(x), expected)


def test_the_inverse_transform_undoes_the_transform() -> None:
    """Of a spectrum as the decoder gives it, also at both ends."""
    settings = VocosConfig(hop=8, window=32)
    x = torch.rand(2, 1, 10 * 8, dtype=torch.float64) * 2 - 1
    frames = F.pad(x, (12, 12)).unfold(-1, 32, 8) * hann(32, x)
    bins = torch.fft.rfft(frames).mT
    h = torch.stack([bins.abs().log(), bins.angle()], 2).flatten(1, 3)
    assert h.shape[1] == 2 * frequencies(settings)
    torch.testing.assert_close(InverseTransform(settings)(h), x)
    loud = torch.full((1, 34, 3), 200.0, requires_grad=True)  # e to that is no float32
    (grad,) = torch.autograd.grad(InverseTransform(settings)(loud).sum(), loud)
    assert grad.isfinite().all()


def sizes_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_networks_have_their_published_sizes() -> None:
    """Weights of encoder and decoder, as transformers' DacModel, EncodecModel and MimiModel count them."""
    dac = replace(DAC, strides=[2, 4, 8, 8], decoder_channels=96, weight_norm=False)
    encodec = SeanetConfig(weight_norm=False)
    mimi = replace(MIMI, strides=[4, 5, 6, 8], layers=8, heads=8, window=250, weight_norm=False)
    sizes = {"dac": (dac, 64, 1024), "encodec": (encodec, 32, 128), "mimi": (mimi, 64, 512)}
    found = {}
    for name, (settings, channels, z_channels) in sizes.items():
        config = ModelConfig(
            **{**NETWORK, "backbone": "seanet", "seanet": settings, "channels": channels, "z_channels": z_channels},
            quantizer=QuantizerConfig(code_dim=z_channels),
        )
        with torch.device("meta"):
            found[name] = sizes_of(seanet.Encoder(config)), sizes_of(seanet.Decoder(config))
    assert found == {
        "dac": (22_299_200, 54_091_105),
        "encodec": (7_423_472, 7_423_345),
        "mimi": (38_867_232, 39_917_089),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@names
def test_every_network_works_in_every_type(name: str, dtype: torch.dtype) -> None:
    tokenizer = tokenizer_of(name)
    x_BCT = sounds(tokenizer)
    codes = tokenizer.encode(x_BCT)
    whole = tokenizer.decode(codes)
    tokenizer.to(dtype)
    assert tokenizer.encode(x_BCT).shape == codes.shape
    made = tokenizer.decode(codes)
    assert made.dtype == dtype
    mean = {torch.bfloat16: 0.02, torch.float16: 0.003, torch.float64: 1e-5}[dtype]
    assert float((made.double() - whole.double()).abs().mean()) < mean
    with torch.autocast("cpu", torch.bfloat16):
        assert tokenizer.float().train()(x_BCT).x_BCHW.isfinite().all()


@names
def test_what_is_silent_constant_or_clipped_gives_numbers(name: str) -> None:
    tokenizer = tokenizer_of(name)
    x_BCT = sounds(tokenizer)
    for odd in (torch.zeros_like(x_BCT), torch.ones_like(x_BCT), x_BCT.sign()):
        leaf = odd.clone().requires_grad_()
        made = tokenizer(leaf)
        (grad,) = torch.autograd.grad(made.x_BCHW.square().sum() + sum(made.losses.values()), leaf)
        assert made.x_BCHW.isfinite().all() and grad.isfinite().all()


@names
def test_a_released_network_loads_again(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    tokenizer.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.config == tokenizer.config and loaded.fingerprint == tokenizer.fingerprint
    codes = tokenizer.encode(sounds(tokenizer))
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(backbone="seanet"), "spatial_dims=2 is not for model.backbone=seanet: set it to 1"),
        (lambda: ModelConfig(seanet=DAC), "model.seanet=.* has no meaning with model.backbone=conv,"),
        (lambda: replace(SOUND["vocos"], channels=64), "model.channels=64 has no meaning"),
        (lambda: replace(SOUND["dac"], dropout=0.1), "model.dropout=0.1 has no meaning"),
        (lambda: replace(SOUND["mimi"], z_channels=6), "model.z_channels=6 .* multiple of 4, for its heads"),
        (lambda: SeanetConfig(strides=[]), r"model.seanet.strides=\[\] .* one or more whole numbers"),
        (lambda: SeanetConfig(kernels=[7, 7]), r"kernels=\[7, 7\] .* three odd numbers"),
        (lambda: SeanetConfig(causal=False, layers=2), "causal=False .* set it to true, as the transformers"),
        (lambda: SeanetConfig(odd_trim=True), "odd_trim=True .* set it to false, as causal is true"),
        (lambda: SeanetConfig(padding="reflect", block=4), "block=4 .* set it to 7 or more"),
        (lambda: VocosConfig(hop=256, window=400), r"window=400 .* set it to 512 \(2·hop\) or more"),
        (lambda: VocosConfig(blocks=[4]), r"blocks=\[4\] .* two numbers"),
        (lambda: VocosConfig(loudest=0.0), r"loudest=0.0 .* above 0, or null"),
        (lambda: replace(SOUND["vocos"], seanet=DAC), "model.seanet=.* has no meaning with model.backbone=vocos"),
        (
            lambda: replace(SOUND["wavtokenizer"], vocos=VocosConfig(hop=8)),
            "model.vocos.hop=8 .* 6, the product of model.seanet.strides",
        ),
        (
            lambda: replace(SOUND["snac"], seanet=replace(SOUND["snac"].seanet, block=6)),
            "model.seanet.block=6 .* a multiple of 4, of quantizer.strides",
        ),
    ],
)
def test_settings_without_meaning_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_network_that_is_not_causal_uses_both_sides() -> None:
    tokenizer = tokenizer_of("dac")
    x_BCT = sounds(tokenizer)
    leaf = x_BCT.clone().requires_grad_()
    (grad,) = torch.autograd.grad(tokenizer.encoder(leaf)[..., 8].sum(), leaf)
    hop = tokenizer.config.stride[0]
    assert grad[..., : 8 * hop].any() and grad[..., 9 * hop :].any()
    assert vocos.Encoder(SOUND["vocos"])(torch.zeros(1, 2, 60)).shape == (1, 8, 10)
