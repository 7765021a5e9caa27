"""Encoder and decoder: shapes, names, precision, gradients."""

from __future__ import annotations

import pytest
import torch

from stage1_tokenizer.config.model import norm_groups
from stage1_tokenizer.config.training import ModelConfig
from stage1_tokenizer.layers.alike import Layers
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.networks.vqgan import AttentionBlock, Decoder, Encoder

SMALL = ModelConfig(channels=8, channel_multipliers=[1, 2, 4], res_blocks=1, z_channels=6)


@pytest.mark.parametrize(("dims", "shape"), [(1, (24,)), (2, (16, 28)), (3, (4, 8, 12))])
def test_any_number_of_axes_and_sizes_that_differ(dims: int, shape: tuple[int, ...]) -> None:
    config = ModelConfig(spatial_dims=dims, in_channels=2, channels=8, channel_multipliers=[1, 2, 4], z_channels=6)
    x = torch.randn(2, 2, *shape)
    z = Encoder(config)(x)
    assert z.shape == (2, 6, *(size // 4 for size in shape))
    assert Decoder(config)(z).shape == x.shape


def test_a_size_off_the_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(16, 18\) is not a multiple of the stride 4"):
        Encoder(SMALL)(torch.zeros(1, 3, 16, 18))


def test_decoder_is_its_last_layer_on_its_features() -> None:
    decoder, z = Decoder(SMALL), torch.randn(1, 6, 4, 4)
    assert torch.equal(decoder(z), decoder.last_layer(decoder.features(z)))


def test_parts_bear_the_names_of_taming_transformers() -> None:
    """The published ImageNet f16 configuration: number of tensors and their shapes."""
    with torch.device("meta"):
        encoder, decoder = Encoder(ModelConfig()).state_dict(), Decoder(ModelConfig()).state_dict()
    assert encoder["conv_in.weight"].shape == (128, 3, 3, 3)
    assert encoder["down.0.block.1.norm2.weight"].shape == (128,)
    assert encoder["down.2.block.0.nin_shortcut.weight"].shape == (256, 128, 1, 1)
    assert encoder["down.3.downsample.conv.weight"].shape == (256, 256, 3, 3)
    assert encoder["down.4.attn.1.proj_out.weight"].shape == (512, 512, 1, 1)
    assert encoder["mid.attn_1.norm.bias"].shape == (512,)
    assert encoder["conv_out.weight"].shape == (256, 512, 3, 3)
    assert decoder["conv_in.weight"].shape == (512, 256, 3, 3)
    assert decoder["up.4.attn.2.q.weight"].shape == (512, 512, 1, 1)
    assert decoder["up.4.upsample.conv.weight"].shape == (512, 512, 3, 3)
    assert decoder["up.3.block.0.nin_shortcut.weight"].shape == (256, 512, 1, 1)
    assert decoder["up.0.block.2.conv2.weight"].shape == (128, 128, 3, 3)
    assert "up.0.upsample.conv.weight" not in decoder and "down.4.downsample.conv.weight" not in encoder
    assert (len(encoder), len(decoder)) == (144, 194)
    sizes = [sum(tensor.numel() for tensor in state.values()) for state in (encoder, decoder)]
    assert sizes == [29_298_176, 42_449_795]


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (48, 24), (8, 8), (7, 7), (1, 1), (97, 1)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert norm_groups(channels) == groups


def test_norm_and_swish_follow_their_equations() -> None:
    h = torch.randn(2, 64, 5, 3, dtype=torch.float64) * 3 + 1
    norm = Norm(64).double()
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    grouped = h.view(2, 32, -1)
    scaled = (grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, correction=0, keepdim=True) + 1e-6).sqrt()
    expected = scaled.view_as(h) * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(norm(h), expected * torch.sigmoid(expected))


def test_attention_follows_its_equation() -> None:
    block = AttentionBlock(Layers(2), 8).double()
    h = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    normed = block.norm(h)
    q, k, v = (part(normed).flatten(2) for part in (block.q, block.k, block.v))
    weights = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / 8**0.5, dim=2)
    mixed = torch.einsum("bnm,bcm->bcn", weights, v).view_as(h)
    torch.testing.assert_close(block(h), h + block.proj_out(mixed))


def test_gradients_are_right_and_memory_layout_does_not_matter() -> None:
    torch.manual_seed(0)
    encoder, decoder = Encoder(SMALL).double(), Decoder(SMALL).double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decoder(encoder(x)), (x,), fast_mode=True)
    expected = decoder(encoder(x))
    other = decoder.to(memory_format=torch.channels_last)(
        encoder.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    )
    torch.testing.assert_close(other, expected)


def test_norms_stay_in_float32_under_bf16() -> None:
    norm = Norm(32)
    h = (torch.randn(2, 32, 8, 8) + 100).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = norm(h)
    torch.testing.assert_close(got.float(), norm(h.float()), rtol=0.01, atol=0.01)
