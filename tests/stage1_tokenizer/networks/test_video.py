"""Networks for videos: sizes, causality to the bit, pictures as clips of one frame, and what they are made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.config.video_networks import VideoNetConfig
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.layers.recompute import recompute_activations
from stage1_tokenizer.layers.video import FrameNorm, HaarPatches, TimeConv3d, VideoUpsample
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.streaming import Stream
from stage1_tokenizer.tokenizer.tiling import TiledTokenizer
from tests.stage1_tokenizer.quantizers.test_kinds import EVERY
from tests.stage1_tokenizer.small_videos import CAUSAL, NETWORK, clips, tokenizer_of

KEPT = 3
"""Frames of codes before what changes."""

MOVQ = {**NETWORK, "z_channels": 4, "quant_conv_kernel": 0}
"""Of backbone=movq, whose latents are the codebook's."""


@pytest.mark.parametrize("name", CAUSAL)
def test_codes_and_frames_do_not_depend_on_later_ones(name: str) -> None:
    """To the bit: of encoding and decoding, in blocks, and of the networks as they are trained, at once."""
    tokenizer = tokenizer_of(config := CAUSAL[name])
    x, frames = clips(config), 1 + (KEPT - 1) * config.stride[0]
    codes = tokenizer.encode(x)
    assert codes.shape == (2, *tokenizer.grid(x.shape[2:])) and len(codes.unique()) > 4
    later = torch.cat([x[:, :, :frames], x[:, :, frames:].flip(0, 2, 3)], 2)
    with torch.no_grad():
        assert torch.equal(tokenizer._latents(later)[:, :, :KEPT], tokenizer._latents(x)[:, :, :KEPT])
    assert torch.equal(tokenizer.encode(later)[:, :KEPT], codes[:, :KEPT])
    assert not torch.equal(tokenizer.encode(later), codes), "they were changed"
    other = torch.cat([codes[:, :KEPT], 63 - codes[:, KEPT:]], 1)
    y, z = tokenizer.decode(codes), tokenizer.decode(other)
    assert y.shape == x.shape and torch.equal(y[:, :, :frames], z[:, :, :frames]) and not torch.equal(y, z)
    with torch.no_grad():
        embedded = [tokenizer._pictures(tokenizer.quantizer.embed(each))[:, :, :frames] for each in (codes, other)]
    assert torch.equal(*embedded)


@pytest.mark.parametrize("name", CAUSAL)
def test_pictures_and_shorter_clips_have_the_codes_of_the_beginning(name: str) -> None:
    tokenizer = tokenizer_of(config := CAUSAL[name])
    x = clips(config)
    codes, y = tokenizer.encode(x), tokenizer.decode(tokenizer.encode(x))
    assert torch.equal(tokenizer.encode(x[:, :, :1]), codes[:, :1])
    assert torch.equal(tokenizer.encode(x[:, :, 0]), codes[:, :1])
    assert torch.equal(tokenizer.decode(codes[:, :1]), y[:, :, :1])
    frames = 1 + 2 * config.stride[0]
    assert torch.equal(tokenizer.encode(x[:, :, :frames]), codes[:, :3])
    with torch.no_grad():  # as in training, at once
        torch.testing.assert_close(tokenizer(x).x_BCHW.clamp(-1, 1), y, atol=1e-4, rtol=1e-4)


def test_a_network_that_is_not_causal_looks_ahead() -> None:
    """What the tests above would see of a norm over time, and of a centred convolution."""
    config = CAUSAL["conv"]
    x, frames = clips(config), 5
    later = torch.cat([x[:, :, :frames], -x[:, :, frames:]], 2)
    tokenizer = tokenizer_of(config)
    for parent in [part for part in tokenizer.modules() if isinstance(getattr(part, "norm_out", None), FrameNorm)]:
        parent.norm_out = Norm(parent.norm_out.num_channels)
    with torch.no_grad():
        assert not torch.equal(tokenizer._latents(later)[:, :, 0], tokenizer._latents(x)[:, :, 0])
    plain = tokenizer_of(replace(config, video=VideoNetConfig(factorised=True, time_strides=[1, 2])))
    x = clips(plain.config)
    later = torch.cat([x[:, :, :6], -x[:, :, 6:]], 2)
    assert plain.grid(x.shape[2:]) == (5, 4, 4) and plain.decode(plain.encode(x)).shape == x.shape
    with torch.no_grad():
        assert not torch.equal(plain._latents(later)[:, :, :3], plain._latents(x)[:, :, :3])


def test_strides_of_time_and_the_grid() -> None:
    config = CAUSAL["haar"]
    tokenizer = tokenizer_of(config)
    assert config.stride == (4, 4, 4) and tokenizer.grid((17, 8, 16)) == (5, 2, 4)
    assert tokenizer.grid((1, 4, 4)) == (1, 1, 1) and [config.fitted(0, size) for size in (0, 1, 16)] == [1, 1, 13]
    assert Tokenizer(ModelConfig(**{**NETWORK, "channel_multipliers": [1, 1, 1]})).grid((16, 8, 8)) == (4, 2, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"size=16 is not 1 \+ a multiple of the tokenizer's stride 4: pad, .* to 13"):
        tokenizer.encode(torch.zeros(1, 1, 16, 8, 8))
    with pytest.raises(ValueError, match="size=9 is not a multiple of the tokenizer's stride 4"):
        tokenizer.encode(torch.zeros(1, 1, 17, 9, 8))


def test_convolutions_see_the_first_frame_before_the_clip() -> None:
    """Against sums over taps: outputs of a causal convolution, with a stride of time, and its factorised form."""
    x = torch.randn(1, 2, 5, 4, 4, dtype=torch.float64)
    conv = TimeConv3d((2, 3), (3, 3), (2, 1), causal=True).double()
    got = conv(x)
    frames = [0, 0, 0, 1, 2, 3, 4]
    expected = torch.nn.functional.conv3d(x[:, :, frames], conv.weight, conv.bias, (2, 1, 1), (0, 1, 1))
    assert got.shape == (1, 3, 3, 4, 4)
    torch.testing.assert_close(got, expected)
    zeros = TimeConv3d((2, 3), (3, 3), causal=True, zeros=True).double()
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 2, 0))
    expected = torch.nn.functional.conv3d(padded, zeros.weight, zeros.bias, 1, (0, 1, 1))
    torch.testing.assert_close(zeros(x), expected)


def test_the_first_frame_stays_one_where_time_is_doubled() -> None:
    """Of its two frames by depth to space the first remains."""
    up = VideoUpsample(torch.nn.Identity(), (2, 1), "shuffle", causal=True)
    h = torch.arange(12.0).view(1, 4, 3, 1, 1)  # channels: 2 of the first frame, 2 of the second
    assert up(h)[0, :, :, 0, 0].tolist() == [[0, 1, 7, 2, 8], [3, 4, 10, 5, 11]]
    near = VideoUpsample(torch.nn.Identity(), (2, 1), "nearest", causal=True)
    assert near(h)[0, 0, :, 0, 0].tolist() == [0, 1, 1, 2, 2]


def test_haar_patches_are_means_and_differences_and_go_back() -> None:
    patches = HaarPatches(4, causal=True)
    x = torch.rand(2, 3, 9, 8, 4)
    h = patches(x)
    assert h.shape == (2, 192, 3, 2, 1)
    torch.testing.assert_close(patches.inverse(h), x)
    torch.testing.assert_close(h[:, :3, 1, 0, 0], x[:, :, 1:5, :4].mean((2, 3, 4)))
    torch.testing.assert_close(h[:, :3, 0, 0, 0], x[:, :, 0, :4].mean((2, 3)))
    pairs = HaarPatches(2, causal=False)(x[:, :1, :2, :2, :2])
    torch.testing.assert_close(pairs[:, 1, 0, 0, 0], (x[:, 0, :2, :2, 0] - x[:, 0, :2, :2, 1]).mean((1, 2)) / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spatial_dims": 2}, "model.video=.* is for model.spatial_dims=3"),
        ({"quant_conv_kernel": 3}, "quant_conv_kernel=3 looks ahead, which model.video.causal=true rules out"),
        ({"video": VideoNetConfig(causal=True, time_strides=[2])}, "time_strides=.*2 numbers, one for each change"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{**NETWORK, "video": VideoNetConfig(causal=True), **settings})  # type: ignore[arg-type]


def test_more_that_does_not_fit_is_refused() -> None:
    for name, value in (("time_strides", [3]), ("haar", 3), ("block", 0)):
        with pytest.raises(ValueError, match=f"model.video.{name}="):
            VideoNetConfig(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tiles are not supported"):
        TiledTokenizer(tokenizer_of(CAUSAL["conv"]), 16, 8)


@pytest.mark.parametrize("name", [*CAUSAL, "movq", "front"])
def test_half_precision_and_recomputed_activations(name: str) -> None:
    movq = ModelConfig(backbone="movq", video=VideoNetConfig(time_strides=[1, 2]), **MOVQ)  # type: ignore[arg-type]
    front = replace(CAUSAL["magvit2"], video=VideoNetConfig(front=True, time_strides=[1, 2]))
    config = {**CAUSAL, "movq": movq, "front": front}[name]
    tokenizer, half, x = tokenizer_of(config), tokenizer_of(config).bfloat16(), clips(config, codes=3)
    (y, codes), (rough, others) = tokenizer.reconstruct(x), half.reconstruct(x)
    assert rough.dtype is torch.bfloat16 and (rough.float() - y).abs().mean() < 0.05
    assert codes is not None and others is not None and (codes == others).float().mean() > 0.9
    gradients = []
    for recompute in (False, True):
        tokenizer.zero_grad()
        if recompute:
            recompute_activations(tokenizer)
        result = tokenizer.train()(x)
        (result.x_BCHW.square().mean() + sum(result.losses.values())).backward()
        gradients.append([weight.grad for weight in tokenizer.parameters()])
    for one, two in zip(*gradients, strict=True):
        assert one is not None and two is not None and torch.equal(one, two)


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind != "multiscale"])
def test_every_quantizer_keeps_the_order_of_time(kind: str) -> None:
    """Its codes of the beginning are those of a shorter clip, and clips in parts have those of the whole."""
    if EVERY[kind].strides:
        with pytest.raises(ValueError, match=r"quantizer.strides=.* is for sounds"):
            replace(CAUSAL["conv"], quantizer=EVERY[kind])
    config = replace(CAUSAL["conv"], quantizer=replace(EVERY[kind], strides=[]))
    torch.manual_seed(0)
    tokenizer, x = Tokenizer(config).eval(), clips(config)
    codes = tokenizer.encode(x)
    assert codes.shape[1:] == tokenizer.codes_shape(x.shape[2:]) and codes.shape[-3:] == (5, 4, 4)
    assert torch.equal(tokenizer.encode(x[:, :, :5]), codes[..., :3, :, :])
    stream = Stream(tokenizer)
    parts = [stream.encode(x[:, :, :2]), stream.encode(x[:, :, 2:], last=True)]
    assert torch.equal(torch.cat(parts, -3), codes)
    frames = torch.cat([stream.decode(codes[..., :1, :, :]), stream.decode(codes[..., 1:, :, :], last=True)], 2)
    assert torch.equal(frames, tokenizer.decode(codes))
