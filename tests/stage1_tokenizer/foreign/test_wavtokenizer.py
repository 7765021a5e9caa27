"""WavTokenizer beside EnCodec's encoder and a plain form of its decoder: codes, waveforms, names, refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

from launch.command.cli import UserError
from stage1_tokenizer.foreign import LAYOUTS
from stage1_tokenizer.foreign.base import Converted, Source
from stage1_tokenizer.foreign.checkpoint import convert_checkpoint, read_checkpoint
from stage1_tokenizer.publishing.convert import build
from stage1_tokenizer.tokenizer.folder import model_config
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer.foreign.test_sound_codecs import peer_of, published_encodec, sounds

FEATURES = "feature_extractor.encodec."
PUBLISHED: dict[str, Any] = {
    "dim": 512,
    "width": 768,
    "layers": 12,
    "window": 1280,
    "ratios": [8, 5, 4, 2],
    "filters": 32,
}
SMALL: dict[str, Any] = {"dim": 8, "width": 64, "layers": 2, "window": 40, "ratios": [5, 2], "filters": 4}
CODES = 64


def encoder_of(dim: int, ratios: list[int], filters: int, **_: Any) -> EncodecConfig:
    """EnCodec, but not causal; its decoder is in the checkpoints too."""
    sizes: dict[str, Any] = {"hidden_size": dim, "upsampling_ratios": ratios, "num_filters": filters}
    return EncodecConfig(use_causal_conv=False, codebook_size=CODES, **sizes)


def shapes(dim: int, width: int, layers: int, window: int, **_: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of its decoder, stated from its code (decoder/models.py, decoder/heads.py)."""
    found: dict[str, tuple[int, ...]] = {"backbone.embed.weight": (width, dim, 7), "backbone.embed.bias": (width,)}
    for number in (0, 1, 3, 4):
        for part in (1, 2):
            at = f"backbone.pos_net.{number}."
            found |= {f"{at}conv{part}.weight": (width, width, 3), f"{at}conv{part}.bias": (width,)}
            found |= dict.fromkeys((f"{at}norm{part}.weight", f"{at}norm{part}.bias"), (width,))
    for part in ("q", "k", "v", "proj_out"):
        found |= {f"backbone.pos_net.2.{part}.weight": (width, width, 1), f"backbone.pos_net.2.{part}.bias": (width,)}
    vectors = [f"backbone.{at}.{part}" for at in ("pos_net.2.norm", "pos_net.5", "final_layer_norm") for part in ENDS]
    for at in [f"backbone.convnext.{layer}." for layer in range(layers)]:
        found |= {f"{at}dwconv.weight": (width, 1, 7), f"{at}pwconv1.weight": (3 * width, width)}
        found |= {f"{at}pwconv2.weight": (width, 3 * width), f"{at}pwconv1.bias": (3 * width,)}
        vectors += [f"{at}dwconv.bias", f"{at}pwconv2.bias", f"{at}gamma"]
        found |= {f"{at}norm.{part}.weight": (4, width) for part in ("scale", "shift")}
    found |= {f"backbone.norm.{part}.weight": (4, width) for part in ("scale", "shift")}
    found |= {"head.out.weight": (window + 2, width), "head.out.bias": (window + 2,), "head.istft.window": (window,)}
    return found | dict.fromkeys(vectors, (width,))


ENDS = ("weight", "bias")


@torch.no_grad()
def peer() -> tuple[Any, dict[str, Tensor]]:
    """An encoder and a checkpoint's tensors, with random weights that keep the size of what goes through them."""
    encoder = peer_of("encodec", encoder_of(**SMALL))
    weights = {FEATURES + name: tensor for name, tensor in published_encodec(encoder.state_dict()).items()}
    weights = {name: tensor for name, tensor in weights.items() if not re.search(r"vq\.layers\.[1-9]", name)}
    for name, shape in shapes(**SMALL).items():
        size = 1.0 if len(shape) == 1 or ".norm." in name else torch.Size(shape[1:]).numel() ** -0.5
        weights[name] = torch.randn(shape) * size
    weights["head.out.bias"][1] = 6.0  # a magnitude over the limit
    weights["multiperioddisc.discriminators.0.convs.0.bias"] = torch.zeros(3)
    return encoder, weights


def plain_decoder(w: dict[str, Tensor], z_BDt: Tensor) -> Tensor:
    """Latents to waveforms (B, 1, T), as decoder/models.py and decoder/heads.py compute them; bandwidth_id is 0."""

    def conv(at: str, h: Tensor) -> Tensor:
        weight = w[at + ".weight"]
        groups = h.shape[1] // weight.shape[1]
        return F.conv1d(h, weight, w[at + ".bias"], padding=weight.shape[2] // 2, groups=groups)

    def linear(at: str, h: Tensor) -> Tensor:
        return F.linear(h, w[at + ".weight"], w[at + ".bias"])

    def groups(at: str, h: Tensor) -> Tensor:
        return F.group_norm(h, 32, w[at + ".weight"], w[at + ".bias"], 1e-6)

    def scaled(at: str, h_BtE: Tensor) -> Tensor:
        return F.layer_norm(h_BtE, h_BtE.shape[-1:], eps=1e-6) * w[at + ".scale.weight"][0] + w[at + ".shift.weight"][0]

    h = conv("backbone.embed", z_BDt)
    for number in range(5):
        at = f"backbone.pos_net.{number}."
        if number == 2:
            q, k, v = (conv(at + part, groups(at + "norm", h)) for part in "qkv")
            share_Btt = torch.softmax(q.mT @ k / q.shape[1] ** 0.5, dim=2)
            h = h + conv(at + "proj_out", v @ share_Btt.mT)
        else:
            inner = conv(at + "conv1", F.silu(groups(at + "norm1", h)))
            h = h + conv(at + "conv2", F.silu(groups(at + "norm2", inner)))
    h = scaled("backbone.norm", groups("backbone.pos_net.5", h).mT).mT
    for layer in range(SMALL["layers"]):
        at = f"backbone.convnext.{layer}."
        inner = linear(at + "pwconv1", scaled(at + "norm", conv(at + "dwconv", h).mT))
        h = h + (w[at + "gamma"] * linear(at + "pwconv2", F.gelu(inner))).mT
    at = "backbone.final_layer_norm."
    h_BtE = F.layer_norm(h.mT, h.shape[1:2], w[at + "weight"], w[at + "bias"], 1e-6)
    log, phase = linear("head.out", h_BtE).chunk(2, dim=2)
    frames_BtN = torch.fft.irfft(torch.polar(log.exp().clamp(max=100), phase), SMALL["window"])
    hann, hop = torch.hann_window(SMALL["window"], dtype=h.dtype), 10
    sides = (SMALL["window"] - hop) // 2
    made = torch.zeros(len(h), hop * h.shape[2] + 2 * sides, dtype=h.dtype)
    weight = torch.zeros_like(made)
    for t, frame in enumerate(frames_BtN.unbind(1)):
        made[:, hop * t : hop * t + SMALL["window"]] += frame * hann
        weight[:, hop * t : hop * t + SMALL["window"]] += hann**2
    return (made / weight)[:, None, sides:-sides]


def converted(weights: dict[str, Tensor], settings: dict[str, Any] | None = None) -> Converted:
    return LAYOUTS["wavtokenizer"].convert(Source("wavtokenizer", "peer", weights, {}, settings or {}, {}))


@torch.no_grad()
def test_codes_and_waveforms_are_the_peers() -> None:
    encoder, weights = peer()
    tokenizer, x_BCT = build(converted(weights), "peer").double(), sounds(10).double()
    latents = encoder.double().encoder(x_BCT)
    book = encoder.quantizer.layers[0].codebook
    codes = torch.cdist(latents.mT, book.embed.double()).argmin(2)
    assert len(codes.unique()) > 8 and torch.equal(tokenizer.encode(x_BCT), codes)
    vectors = book.embed[codes].mT.double()
    made = plain_decoder({name: tensor.double() for name, tensor in weights.items()}, vectors)
    torch.testing.assert_close(tokenizer.decoder(vectors), made, atol=1e-6, rtol=0)
    assert torch.equal(tokenizer.decode(codes), tokenizer.decoder(vectors).clamp(-1, 1))
    assert tokenizer.transform is not None and tokenizer.transform.sample_rate == 24000


def test_published_sizes_have_their_names_and_shapes() -> None:
    with torch.device("meta"):
        encoder = EncodecModel(encoder_of(**PUBLISHED))
        weights = {FEATURES + name: tensor for name, tensor in published_encodec(encoder.state_dict()).items()}
        weights = {name: tensor for name, tensor in weights.items() if not re.search(r"vq\.layers\.[1-9]", name)}
        made = converted(weights | {name: torch.empty(shape) for name, shape in shapes(**PUBLISHED).items()})
        tokenizer = Tokenizer(model_config(made.model, Path("peer")))
    ours = {name: tuple(tensor.shape) for name, tensor in tokenizer.weights().items()}
    assert {name: tuple(tensor.shape) for name, tensor in made.weights.items()} == ours
    assert tokenizer.config.stride == (320,) and tokenizer.config.vocos.blocks[1] == 12


def test_a_lightning_checkpoint_is_recognised(tmp_path: Path) -> None:
    _, weights = peer()
    torch.save({"state_dict": weights, "epoch": 1}, tmp_path / "last.ckpt")
    (tmp_path / "config.yaml").write_text("model: {init_args: {sample_rate: 16000}}\n")
    checkpoint = read_checkpoint(tmp_path / "last.ckpt", tmp_path / "config.yaml")
    made, _ = convert_checkpoint(checkpoint, "wavtokenizer")
    assert made.rate == 16000
    with pytest.raises(UserError, match="it looks like --from wavtokenizer"):
        convert_checkpoint(checkpoint, "encodec")


def test_parts_that_are_not_supported_are_named() -> None:
    _, weights = peer()
    second = {f"{FEATURES}quantizer.vq.layers.1._codebook.embed": torch.zeros(CODES, 8)}
    with pytest.raises(UserError, match=r"more than one codebook \(quantizer\.layers\.1\.codebook\.embed\)"):
        converted(weights | second)
    head = {"model": {"init_args": {"head": {"init_args": {"padding": "center"}}}}}
    with pytest.raises(UserError, match="has padding=center in its head, not same"):
        converted(weights, head)
    wide = {"backbone.convnext.0.pwconv1.weight": torch.zeros(256, 64)}
    with pytest.raises(UserError, match="blocks of 256 channels, not 3 times 64"):
        converted(weights | wide)
