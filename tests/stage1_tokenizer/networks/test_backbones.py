"""conv_plus and vit: sizes, equations, published shapes, refusals; and what published conv networks differ in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.model import ConvPlusConfig, ModelConfig, QuantizerConfig, TransformerConfig, VitConfig
from stage1_tokenizer.layers.convolution import depth_to_space
from stage1_tokenizer.layers.recompute import recompute_activations
from stage1_tokenizer.networks import maskgit as conv_plus
from stage1_tokenizer.networks import vit
from stage1_tokenizer.networks import vqgan as model
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer.small_backbones import BACKBONES, NETWORK, SIZE, VIT

KINDS = ("vq", "fsq", "lfq", "bsq", "gumbel", "ibq", "residual", "product", "gaussian")


@pytest.mark.parametrize("name", BACKBONES)
def test_pictures_of_any_size_on_the_stride_go_in_and_out(name: str) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(BACKBONES[name]).eval()
    for sizes in [(32, 32)] if name == "titok" else [(32, 32), (16, 40), (56, 8)]:
        x_BCHW = torch.rand(2, 3, *sizes) * 2 - 1
        recon_BCHW, codes = tokenizer.reconstruct(x_BCHW)
        assert recon_BCHW.shape == x_BCHW.shape
        assert codes is not None and codes.shape[1:] == tokenizer.codes_shape(sizes)
        torch.testing.assert_close(tokenizer.decode(codes), recon_BCHW)
    with pytest.raises(ValueError, match="is not a multiple of the"):
        tokenizer.encode(torch.zeros(1, 3, 32, 30))
    with pytest.raises(ValueError, match="is not a multiple of the stride"):
        tokenizer.encoder(torch.zeros(1, 3, 32, 30))


@pytest.mark.parametrize("name", BACKBONES)
def test_decoder_is_its_last_layer_on_its_features(name: str) -> None:
    tokenizer = Tokenizer(BACKBONES[name])
    z_BDhw = tokenizer.encoder(torch.randn(1, 3, 32, 32))
    decoder = tokenizer.decoder
    assert torch.equal(decoder(z_BDhw), decoder.last_layer(decoder.features(z_BDhw)))


@pytest.mark.parametrize("name", BACKBONES)
def test_recomputed_activations_are_not_kept(name: str) -> None:
    kept = []
    for recompute in (False, True):
        tokenizer = Tokenizer(BACKBONES[name]).train()
        if recompute:
            recompute_activations(tokenizer)
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            made = tokenizer(torch.rand(8, 3, 32, 32))
        assert made.x_BCHW.requires_grad
        kept.append(sum(saved.values()) - sum(parameter.nbytes for parameter in tokenizer.parameters()))
    assert kept[1] < 0.7 * kept[0], kept


def test_conv_plus_block_follows_its_equation() -> None:
    """As both papers' code computes it: without biases; in MaskGIT's a shortcut of what was just computed."""
    x = torch.randn(2, 32, 5, 4, dtype=torch.float64)
    for shortcut in ("input", "inner"):
        config = ModelConfig(backbone="conv_plus", conv_plus=ConvPlusConfig(shortcut=shortcut))  # type: ignore[arg-type]
        block = conv_plus.Block(config, 32, 64).double()
        weight = {name: torch.nn.init.normal_(parameter) for name, parameter in block.named_parameters()}
        assert sorted(weight) == ["conv1.weight", "conv2.weight", "nin_shortcut.weight"] + [
            f"norm{number}.{part}" for number in (1, 2) for part in ("bias", "weight")
        ]
        h = x
        for number in ("1", "2"):
            h = F.group_norm(h, 32, weight[f"norm{number}.weight"], weight[f"norm{number}.bias"], eps=1e-6)
            h = F.conv2d(h * torch.sigmoid(h), weight[f"conv{number}.weight"], padding=1)
        summand = F.conv2d(h if shortcut == "inner" else x, weight["nin_shortcut.weight"])
        torch.testing.assert_close(block(x), h + summand)
        same = conv_plus.Block(config, 32, 32)
        assert same.nin_shortcut is None and (same(x.float()) - x.float()).norm() > 0


def test_adaptive_norm_follows_its_equation() -> None:
    norm = conv_plus.AdaptiveNorm(3, 64).double()
    h, z = torch.randn(2, 64, 4, 6, dtype=torch.float64), torch.randn(2, 3, 2, 3, dtype=torch.float64)
    grouped = h.view(2, 32, -1)
    normed = (
        (grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, correction=0, keepdim=True) + 1e-6).sqrt()
    ).view_as(h)
    deviation = ((z - z.mean((2, 3), keepdim=True)).square().sum((2, 3)) / 5 + 1e-6).sqrt()
    scale = deviation @ norm.gamma.weight.T + norm.gamma.bias
    shift = z.mean((2, 3)) @ norm.beta.weight.T + norm.beta.bias
    torch.testing.assert_close(norm(h, z), scale[:, :, None, None] * normed + shift[:, :, None, None])
    assert norm(h, z[:, :, :1, :1]).isfinite().all()


def test_depth_to_space_moves_channels_to_their_pixels() -> None:
    h = torch.arange(2 * 12 * 3 * 2).view(2, 12, 3, 2)
    got = depth_to_space(h, 2)
    for channel in range(3):
        for row in range(6):
            for column in range(4):
                source = h[:, (row % 2 * 2 + column % 2) * 3 + channel, row // 2, column // 2]
                assert torch.equal(got[:, channel, row, column], source)
    assert depth_to_space(torch.zeros(1, 8, 5), 2).shape == (1, 4, 10)


def sizes_of(module: nn.Module) -> tuple[int, int]:
    return len(module.state_dict()), sum(parameter.numel() for parameter in module.parameters())


def test_published_networks_have_their_published_sizes() -> None:
    """Tensors and weights of encoder and decoder, counted in the authors' own code."""
    size = TransformerConfig(width=768, depth=12, heads=12)
    large = TransformerConfig(width=1024, depth=24, heads=16)
    magvit2 = ModelConfig(backbone="conv_plus", res_blocks=4, z_channels=18)
    maskgit = ModelConfig(backbone="conv_plus", conv_plus=ConvPlusConfig("pool", "nearest", False, "inner"))
    titok_bl64 = ModelConfig(
        backbone="vit",
        vit=VitConfig(patch=16, latent_tokens=64, head="linear", encoder=size, decoder=large),
        z_channels=64,
    )
    with torch.device("meta"):
        assert sizes_of(conv_plus.Encoder(magvit2)) == (159, 49_751_442)
        assert sizes_of(conv_plus.Decoder(magvit2)) == (180, 65_376_387)
        assert sizes_of(conv_plus.Encoder(maskgit)) == (79, 23_775_104)
        assert sizes_of(conv_plus.Decoder(maskgit)) == (88, 30_478_339)
        tensors, weights = sizes_of(vit.Encoder(titok_bl64))
        assert (tensors, weights - 64 * 768) == (155 + 1, 85_944_640)  # latent_tokens lie beside TiTok's encoder
        assert sizes_of(vit.Decoder(titok_bl64)) == (302, 303_498_068)


@pytest.mark.parametrize(
    ("changes", "encoder", "decoder", "middle"),
    [
        ({}, [False, False, True], [False, False, True], True),
        ({"attention": False}, [False] * 3, [False] * 3, False),
        ({"attention_levels": []}, [False] * 3, [False] * 3, True),
        ({"attention_levels": [1, 2]}, [False, True, True], [False, True, True], True),
        ({"attention_middle": False}, [False, False, True], [False, False, True], False),
    ],
)
def test_attention_lies_where_it_is_set(
    changes: dict[str, Any], encoder: list[bool], decoder: list[bool], middle: bool
) -> None:
    config = ModelConfig(**{**NETWORK, **changes})  # type: ignore[arg-type]
    down, up = model.Encoder(config), model.Decoder(config)
    assert [len(level.attn) > 0 for level in down.down] == encoder  # type: ignore[arg-type, union-attr]
    assert [len(level.attn) > 0 for level in up.up] == decoder  # type: ignore[arg-type, union-attr]
    assert ["mid.attn_1.q.weight" in part.state_dict() for part in (down, up)] == [middle] * 2


def test_bridges_to_the_quantizer() -> None:
    var = Tokenizer(replace(BACKBONES["conv"], quant_conv_kernel=3))
    assert var.quant_conv.weight.shape == (4, 8, 3, 3) and var.post_quant_conv.weight.shape == (8, 4, 3, 3)
    assert var.eval().encode(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 8)
    kl = replace(BACKBONES["conv"], double_z=True, quantizer=QuantizerConfig(kind="gaussian", code_dim=4))
    assert Tokenizer(kl).quant_conv.weight.shape == (8, 16, 1, 1)
    bare = Tokenizer(replace(BACKBONES["magvit2"], quant_conv_kernel=0, z_channels=4))
    assert not any("quant_conv" in name for name in bare.state_dict())
    assert bare.eval().encode(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_latent_tokens_take_every_quantizer_with_a_code_a_vector(kind: Any) -> None:
    torch.manual_seed(0)
    quantizer = QuantizerConfig(kind=kind, codebook_size=16, code_dim=8, levels=[4, 4])
    tokenizer = Tokenizer(replace(BACKBONES["titok"], quantizer=quantizer))
    made = tokenizer.train()(torch.rand(2, 3, 32, 32))
    made.x_BCHW.square().sum().backward()
    latent_tokens = tokenizer.encoder.latent_tokens
    assert isinstance(latent_tokens, Tensor) and latent_tokens.grad is not None and latent_tokens.grad.norm() > 0
    if kind != "gaussian":
        codes = tokenizer.eval().encode(torch.zeros(2, 3, 32, 32))
        assert codes.shape[1:] == tokenizer.codes_shape(32) == ((4, 5) if tokenizer.codebooks > 1 else (5,))
        assert tokenizer.decode(codes).shape == (2, 3, 32, 32)


def test_latent_tokens_are_for_one_size() -> None:
    tokenizer = Tokenizer(BACKBONES["titok"]).eval()
    with pytest.raises(ValueError, match=r"size=\[32, 40\] is not supported with latent tokens, which need"):
        tokenizer.encode(torch.zeros(1, 3, 32, 40))
    with pytest.raises(ValueError, match=r"\(32, 40\) is not of model.vit.size=32: resize it"):
        tokenizer.encoder(torch.zeros(1, 3, 32, 40))
    with pytest.raises(ValueError, match="need 2 axes"):
        tokenizer.decode(torch.zeros(1, 4, 4, dtype=torch.int64))


def test_attention_is_multi_head_attention() -> None:
    ours, theirs = vit.Attention(12, 3).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.in_proj.weight.data, ours.in_proj.bias.data
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    h = torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(h), theirs(h, h, h)[0])


def test_positions_of_other_grids_lie_between_the_trained_ones() -> None:
    same = vit.sines((4, 4), (4, 4), 16).view(4, 4, 16)
    angles = torch.tensor([3 * 10000 ** (-k / 4) for k in range(4)])
    torch.testing.assert_close(same[3, 0, :8], torch.cat([angles.sin(), angles.cos()]))
    torch.testing.assert_close(same[0, 3, 8:], torch.cat([angles.sin(), angles.cos()]))
    finer = vit.sines((8, 4), (4, 4), 16).view(8, 4, 16)
    torch.testing.assert_close(finer[0, 0, 0], torch.tensor(-0.25).sin())
    torch.testing.assert_close(finer[7, 0, 0], torch.tensor(3.25).sin())
    encoder = vit.Encoder(BACKBONES["vit"])
    assert encoder.positional_embedding is not None
    ramp = torch.arange(4.0).repeat_interleave(4)[:, None].expand(16, 16)  # the row's number
    encoder.positional_embedding.data.copy_(ramp)
    assert torch.equal(encoder._positions((4, 4), 0), encoder.positional_embedding)
    stretched = encoder._positions((8, 2), 0).view(8, 2, 16)[:, 0, 0]
    torch.testing.assert_close(stretched[3:5], torch.tensor([1.25, 1.75]), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(attention_levels=[5]), r"attention_levels=\[5\] must lie in \[0, 5\)"),
        (lambda: ModelConfig(attention=False, attention_levels=[1]), "attention_levels=.* has no meaning"),
        (lambda: ModelConfig(backbone="conv_plus", attention_middle=False), "attention_middle=False has no meaning"),
        (lambda: ModelConfig(conv_plus=ConvPlusConfig("pool")), "model.conv_plus=.* has no meaning"),
        (lambda: ModelConfig(vit=VIT), "model.vit=.* has no meaning with model.backbone=conv,"),
        (lambda: ModelConfig(backbone="vit", channels=64), "model.channels=64 has no meaning"),
        (lambda: ModelConfig(backbone="vit", spatial_dims=1), "spatial_dims=1 is not for model.backbone=vit"),
        (
            lambda: ModelConfig(quant_conv_kernel=0, z_channels=8),
            r"z_channels=8.* don't fit .*set them to 256 and False",
        ),
        (
            lambda: replace(BACKBONES["titok"], quantizer=QuantizerConfig(kind="multiscale")),
            "latent_tokens=5 makes no grid",
        ),
        (lambda: VitConfig(size=30, patch=8), "model.vit.size=30 is out of range: set it to a multiple of"),
        (lambda: VitConfig(encoder=replace(SIZE, width=15)), "model.vit.encoder.width=15 .* multiple of 2"),
        (lambda: VitConfig(positions="sincos", encoder=replace(SIZE, width=20)), "encoder.width=20 .* multiple of 8"),
    ],
)
def test_settings_without_meaning_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_released_backbone_loads_again(tmp_path: Any) -> None:
    for name in ("maskgit", "titok"):
        tokenizer = Tokenizer(BACKBONES[name]).eval()
        tokenizer.save_pretrained(tmp_path / name)
        loaded = Tokenizer.from_pretrained(tmp_path / name)
        assert loaded.config == tokenizer.config and loaded.fingerprint == tokenizer.fingerprint


def test_settings_added_later_leave_fingerprints_alone() -> None:
    """Of a tokenizer whose every weight is 1, as the first version of the configuration gave it."""
    config = ModelConfig(channels=8, channel_multipliers=[1, 2], z_channels=6)
    tokenizer = Tokenizer(config)
    for tensor in tokenizer.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(1.0)
    assert tokenizer.fingerprint == "bf25d9822d140171e1cea928eeacd930e47c8ce0249b9c2ebb474575619e029d"
