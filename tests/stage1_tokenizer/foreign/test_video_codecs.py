"""Converted tokenizers of videos beside their own code on random weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Emu3VQVAE, Emu3VQVAEConfig

from launch.command.cli import UserError
from stage1_tokenizer.config.model import ConvPlusConfig, ModelConfig, QuantizerConfig
from stage1_tokenizer.config.video_networks import VideoNetConfig
from stage1_tokenizer.convert import main
from stage1_tokenizer.foreign import LAYOUTS
from stage1_tokenizer.foreign.base import Source, renamed
from stage1_tokenizer.foreign.cosmos import in_order
from stage1_tokenizer.layers.video import HaarPatches
from stage1_tokenizer.publishing.convert import build
from stage1_tokenizer.tokenizer.codec import Codec
from stage1_tokenizer.tokenizer.folder import model_config
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer.small_videos import CAUSAL as VIDEOS

OF_VIDEOS = ("emu3", "open_magvit2_video", "cosmos")
"""The layouts tried here."""

EMU3 = {"codebook_size": 64, "base_channels": 32, "channel_multiplier": [1, 2], "attn_resolutions": [1]}
EMU3 |= {"hidden_size": 64, "num_res_blocks": 1, "temporal_downsample_factor": 2}


@torch.no_grad()
def emu3() -> Emu3VQVAE:
    torch.manual_seed(0)
    model = Emu3VQVAE(Emu3VQVAEConfig(**EMU3)).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm3d):
            nn.init.normal_(part.weight, 1, 0.2), nn.init.normal_(part.bias, 0, 0.2)
            nn.init.normal_(part.running_mean, 0, 0.2), nn.init.uniform_(part.running_var, 0.5, 2)
    return model


@torch.no_grad()
def test_emu3_gives_transformers_codes_and_frames(tmp_path: Path) -> None:
    model = emu3()
    model.save_pretrained(tmp_path / "theirs")
    main([str(tmp_path / "theirs"), str(tmp_path / "ours"), "--from", "emu3", "--size", "32"])
    tokenizer = Tokenizer.from_pretrained(tmp_path / "ours")
    assert tokenizer.transform is not None and tokenizer.transform.sizes == (16, 32, 32)
    x_BCTHW = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    sizes = torch.tensor([[16, 16]] * 2)
    codes = torch.stack(model.encode(x_BCTHW.transpose(1, 2), sizes).image_tokens)
    assert torch.equal(tokenizer.encode(x_BCTHW), codes) and len(codes.unique()) > 8
    frames = model.decode(codes).transpose(1, 2).clamp(-1, 1)
    torch.testing.assert_close(tokenizer.decode(codes), frames, atol=1e-4, rtol=0)
    of_pictures = torch.stack(model.encode(x_BCTHW[:, :, 0], sizes).image_tokens)
    assert torch.equal(tokenizer.encode(x_BCTHW[:, :, 0])[:, 0], of_pictures)
    torch.testing.assert_close(
        tokenizer.decode(of_pictures[:, None])[:, :, 0], model.decode(of_pictures).clamp(-1, 1), atol=1e-4, rtol=0
    )


PUBLISHED = [
    (r"_block\.(down|up)\.", r".\1."),
    (r"coder\.(down|up)\.(down|up)\.", r"coder.\1."),
    ("middle_block", "mid"),
]
PUBLISHED += [(r"attn_norms\.(\d)", r"attn.\1.norm"), ("attn_norm", "attn_1.norm"), (r"\.(q|k|v)_proj", r".\1")]
PUBLISHED += [(r"\.out_proj", ".proj_out")]
"""From transformers' names to those of the published code."""


@torch.no_grad()
def test_the_published_names_give_the_same() -> None:
    state = emu3().state_dict()
    theirs = renamed(state, PUBLISHED)
    theirs = {name: x[..., None, None] if ".attn" in name and x.ndim == 2 else x for name, x in theirs.items()}
    assert "decoder.up.1.attn.0.norm.conv_y.weight" in theirs and "encoder.mid.attn_1.q.weight" in theirs
    one, two = (
        build(LAYOUTS["emu3"].convert(Source("emu3", "peer", weights, {}, {}, {})), "peer").weights()
        for weights in (state, theirs)
    )
    assert one.keys() == two.keys() and all(torch.equal(weight, two[name]) for name, weight in one.items())


def test_open_magvit2_s_video_tokenizer() -> None:
    """Names and settings; docs/convert.md says how near its own code is."""
    network = {"channels": 8, "channel_multipliers": [1, 2, 2], "res_blocks": 1, "z_channels": 4}
    network |= {"conv_plus": ConvPlusConfig(), "quant_conv_kernel": 0, "backbone": "conv_plus", "spatial_dims": 3}
    quantizer = QuantizerConfig(kind="lfq", codebook_size=16, code_dim=4, entropy_temperature=0.01)
    video = VideoNetConfig(front=True, time_strides=[1, 2])
    torch.manual_seed(0)
    ours = Codec(ModelConfig(**network, video=video, quantizer=quantizer)).eval()  # type: ignore[arg-type]
    state = {name: weight for name, weight in ours.weights().items() if weight.ndim != 5}
    state |= {name.replace(".weight", ".conv_1.weight"): w for name, w in ours.weights().items() if w.ndim == 5}
    convs = [name.removesuffix("conv_1.weight") for name in state if name.endswith("conv_1.weight")]
    state = {name.replace(".bias", ".conv_1.bias") if name[:-4] in convs else name: w for name, w in state.items()}
    rules = [
        (r"coder\.mid\.", "coder.mid_block."),
        (r"downsample\.conv\.", "downsample."),
        (r"upsample\.conv\.", "upsample.conv1."),
    ]
    tokenizer = build(
        LAYOUTS["open_magvit2_video"].convert(Source("", "peer", renamed(state, rules), {}, {}, {})), "peer"
    )
    assert tokenizer.config == ours.config and not tokenizer.config.block, "not causal, so not streamed"
    x_BCTHW = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    codes, bits = ours.encode(x_BCTHW), torch.arange(4)
    swapped = ((codes[..., None] >> bits & 1) << (3 - bits)).sum(-1)  # their first channel is the lowest bit
    assert len(codes.unique()) > 2 and torch.equal(tokenizer.encode(x_BCTHW), swapped)
    torch.testing.assert_close(tokenizer.decode(swapped), ours.decode(codes))


RESAMPLED = {"downsample": {"space": "conv1", "time": "conv2"}, "upsample": {"time": "conv1", "space": "conv2"}}


def in_cosmos_names(name: str) -> str:
    """Of one of our tensors."""
    stem, kind = name.rsplit(".", 1)
    for way, parts in RESAMPLED.items():
        for ours, theirs in {**parts, "mix": "conv3"}.items():
            stem = stem.replace(f"{way}.{ours}", f"{way}.{theirs}")
    stem = re.sub(r"\.space$", ".0", re.sub(r"\.time$", ".1", stem))
    return f"{stem}.norm.{kind}" if re.search(r"norm(\d|_out)?$", stem) else f"{stem}.conv3d.{kind}"


def test_cosmos_names_and_settings() -> None:
    """Also the convolutions that it has, but never uses; docs/convert.md says how near its own code is."""
    quantizer = QuantizerConfig(kind="fsq", levels=[8, 8, 8, 5, 5, 5])
    torch.manual_seed(0)
    ours = Codec(replace(VIDEOS["cosmos"], in_channels=3, quantizer=quantizer)).eval()
    state = {in_cosmos_names(name): weight for name, weight in ours.weights().items()}
    state |= {"encoder.down.1.downsample.conv1.conv3d.weight": torch.zeros(1)}
    compression = {"spatial_compression": 4, "temporal_compression": 4}
    source = Source("cosmos", "peer", state, {}, compression, {})
    tokenizer = build(LAYOUTS["cosmos"].convert(source), "peer")
    assert replace(tokenizer.config.video, block=1) == ours.config.video
    x_BCTHW = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    codes = ours.encode(x_BCTHW)  # one level of Haar patches has the same order there and here
    assert len(codes.unique()) > 2 and torch.equal(tokenizer.encode(x_BCTHW), codes)
    torch.testing.assert_close(tokenizer.decode(codes), ours.decode(codes))
    with pytest.raises(UserError, match="temporal_compression, from 2 to 8: give a --config"):
        LAYOUTS["cosmos"].convert(replace(source, settings={}))


def test_cosmos_order_of_patches() -> None:
    """Two levels of sums and differences in T, H and W, each of all channels that there are."""
    x_BCTHW = torch.rand(1, 3, 4, 8, 4)
    theirs = x_BCTHW
    for _ in range(2):
        for axis in (4, 3, 2):  # the last becomes the slowest
            pairs = theirs.unflatten(axis, (-1, 2)).unbind(axis + 1)
            theirs = torch.cat([(pairs[0] + pairs[1]) / 2, (pairs[0] - pairs[1]) / 2], 1)
    torch.testing.assert_close(in_order(theirs, 1, 4), HaarPatches(4, causal=False)(x_BCTHW))


def test_emu3_at_its_published_size() -> None:
    with torch.device("meta"):
        made = LAYOUTS["emu3"].convert(Source("", "peer", Emu3VQVAE(Emu3VQVAEConfig()).state_dict(), {}, {}, {}))
        config = model_config(made.model, Path("peer"))
        ours = {name: weight.shape for name, weight in Codec(config).weights().items()}
    assert {name: weight.shape for name, weight in made.weights.items()} == ours
    assert (config.stride, config.quantizer.codebook_size, config.widths) == ((4, 8, 8), 32768, [256, 512, 512, 1024])


def test_what_is_not_supported_of_emu3() -> None:
    model = emu3()
    for changes, message in (
        ({"num_attention_heads": 2}, "num_attention_heads=2"),
        ({"double_latent": True}, "double"),
    ):
        source = Source("emu3", "peer", model.state_dict(), {}, {**EMU3, **changes}, {})
        with pytest.raises(UserError, match=message):
            build(LAYOUTS["emu3"].convert(source), "peer")
