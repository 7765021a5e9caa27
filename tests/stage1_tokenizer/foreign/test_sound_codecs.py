"""DAC, EnCodec and Mimi beside transformers' own models on random weights: codes, waveforms, names, export."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from launch.command.cli import UserError
from stage1_tokenizer.foreign import LAYOUTS
from stage1_tokenizer.foreign.base import Source
from stage1_tokenizer.foreign.checkpoint import convert_checkpoint, read_checkpoint
from stage1_tokenizer.foreign.waveform import folded
from stage1_tokenizer.publishing.convert import build, export
from stage1_tokenizer.tokenizer.folder import model_config
from stage1_tokenizer.tokenizer.model import Tokenizer

DAC = DacConfig(
    encoder_hidden_size=8,
    downsampling_ratios=[2, 5],
    decoder_hidden_size=16,
    n_codebooks=3,
    codebook_size=16,
    codebook_dim=4,
    sampling_rate=24000,
    quantizer_dropout=0.5,
)
ENCODEC = EncodecConfig(
    num_filters=4,
    hidden_size=8,
    upsampling_ratios=[5, 2],
    num_residual_layers=2,
    codebook_size=16,
    target_bandwidths=[10.0, 29.0],
)
MIMI = MimiConfig(
    num_filters=4,
    hidden_size=16,
    upsampling_ratios=[3, 2],
    upsample_groups=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    intermediate_size=64,
    sliding_window=5,
    codebook_size=16,
    codebook_dim=8,
    vector_quantization_hidden_dimension=8,
    num_quantizers=4,
)
PEERS: dict[str, tuple[type, Any, Any]] = {
    "dac": (DacModel, DAC, DacConfig(sampling_rate=44100)),
    "encodec": (EncodecModel, ENCODEC, EncodecConfig()),
    "mimi": (MimiModel, MIMI, MimiConfig()),
}
"""transformers' class, a small configuration, and the published one."""
layouts = pytest.mark.parametrize("layout", PEERS)


@torch.no_grad()
def peer_of(layout: str, config: Any = None) -> nn.Module:
    """A model with random weights that keep the size of what goes through them, so that many codes are used."""
    torch.manual_seed(0)
    kind, small, _ = PEERS[layout]
    with torch.device("meta" if layout == "dac" else "cpu"):  # its own first weights take seconds to draw
        model = kind(config or small).eval()
    model = model.to_empty(device="cpu") if layout == "dac" else model
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith((".embed", ".embed_sum", "codebook.weight")):
            weight.normal_(std=0.5)
        elif name.endswith((".cluster_usage", ".alpha", ".original0")):
            weight.uniform_(0.5, 1.5)
        elif weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        elif name.endswith((".bias", ".scale")):
            weight.normal_(std=0.1)
    return model


def sounds(hop: int, frames: int = 24) -> Tensor:
    return torch.rand(2, 1, frames * hop, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def theirs(layout: str, model: Any, x_BCT: Tensor) -> tuple[Tensor, Tensor]:
    """The peer's codes (B, G, t) and the waveforms (B, 1, T) of them."""
    if layout == "encodec":
        codes, scales, _ = model.encode(x_BCT, bandwidth=model.config.target_bandwidths[-1], return_dict=False)
        return codes[0], model.decode(codes, scales)[0]
    codes = model.encode(x_BCT).audio_codes
    waves = model.decode(audio_codes=codes).audio_values
    return codes, waves.view(len(x_BCT), 1, -1)


def source_of(layout: str, weights: dict[str, Tensor], config: Any) -> Source:
    return Source(layout, "peer", weights, {}, config.to_dict(), {})


def converted(layout: str, model: Any, weights: dict[str, Tensor] | None = None) -> Tokenizer:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()} if weights is None else weights
    return build(LAYOUTS[layout].convert(source_of(layout, state, model.config)), "peer")


@pytest.mark.parametrize("size", ["small", "published"])
@layouts
def test_codes_and_waveforms_are_the_peers(layout: str, size: str) -> None:
    """In float64: random weights make sounds so loud that float32's rounding would be heard."""
    published = PEERS[layout][2]
    model = peer_of(layout, published if size == "published" else None)
    tokenizer = converted(layout, model).double()
    model = model.double()
    x_BCT = sounds(tokenizer.config.stride[0], 24 if size == "small" else 8).double()
    codes, waves = theirs(layout, model, x_BCT)
    ours = tokenizer.encode(x_BCT)
    assert len(codes.unique()) > 8 and torch.equal(ours, codes)
    decoded = tokenizer.decode(codes)
    assert decoded.shape == x_BCT.shape
    torch.testing.assert_close(decoded[..., : waves.shape[-1]], waves.clamp(-1, 1), atol=1e-6, rtol=0)
    shorter = 2 if (layout, size) == ("dac", "small") else 0  # one sample at a stride of 5, before one of 2
    assert x_BCT.shape[-1] - waves.shape[-1] == shorter


@torch.no_grad()
def test_the_first_codebooks_are_the_peers_too() -> None:
    model = peer_of("mimi")
    tokenizer = converted("mimi", model)
    codes = tokenizer.encode(sounds(tokenizer.config.stride[0]))
    for books in (1, 2):
        waves = model.decode(codes[:, :books]).audio_values
        torch.testing.assert_close(tokenizer.decode(codes[:, :books]), waves.clamp(-1, 1), atol=1e-4, rtol=0)


@layouts
def test_published_sizes_have_their_names_and_shapes(layout: str) -> None:
    kind, _, config = PEERS[layout]
    with torch.device("meta"):
        made = LAYOUTS[layout].convert(source_of(layout, kind(config).state_dict(), config))
        tokenizer = Tokenizer(model_config(made.model, Path("peer")))
    ours = {name: tuple(tensor.shape) for name, tensor in tokenizer.weights().items()}
    assert {name: tuple(tensor.shape) for name, tensor in made.weights.items()} == ours
    assert made.rate == config.sampling_rate
    hop = {"dac": 512, "encodec": 320, "mimi": 1920}[layout]
    assert tokenizer.config.stride == (hop,)


def normed(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """A kernel as the weight norm of torch before version 2 keeps it: a length, and a direction of any length."""
    kernel = weights[name + "weight"]
    norm = kernel.flatten(1).norm(dim=1).view(-1, *[1] * (kernel.ndim - 1))
    return {name + "weight_g": norm, name + "weight_v": kernel * 3}


def published_dac(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """descript-audio-codec's names: numbers in nn.Sequential, stated from its code for two stages."""
    unit, pairs = ["snake1", "conv1", "snake2", "conv2"], {}
    for published, name in (("encoder.block.", "encoder."), ("decoder.model.", "decoder.")):
        pairs |= {f"{published}{at}.": f"{name}{part}." for at, part in ((0, "conv1"), (3, "snake1"), (4, "conv2"))}
    for stage in (0, 1):
        down, up = f"encoder.block.{stage + 1}.block.", f"decoder.model.{stage + 1}.block."
        pairs |= {down + "3.": f"encoder.block.{stage}.snake1.", down + "4.": f"encoder.block.{stage}.conv1."}
        pairs |= {up + "0.": f"decoder.block.{stage}.snake1.", up + "1.": f"decoder.block.{stage}.conv_t1."}
        for number in range(3):
            for place, part in enumerate(unit):
                pairs[f"{down}{number}.block.{place}."] = f"encoder.block.{stage}.res_unit{number + 1}.{part}."
                pairs[f"{up}{number + 2}.block.{place}."] = f"decoder.block.{stage}.res_unit{number + 1}.{part}."
    for book in range(3):
        for part in ("in_proj.", "out_proj.", "codebook."):
            pairs[f"quantizer.quantizers.{book}.{part}"] = f"quantizer.quantizers.{book}.{part}"
    result: dict[str, Tensor] = {}
    for published, name in pairs.items():
        if name + "alpha" in weights:
            result[published + "alpha"] = weights[name + "alpha"]
        elif "codebook" in name:
            result[published + "weight"] = weights[name + "weight"]
        else:
            kernel = normed({published + "weight": weights[name + "weight"]}, published)
            result |= {**kernel, published + "bias": weights[name + "bias"]}
    return result


def published_encodec(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the encodec package."""
    result = {}
    for name, tensor in weights.items():
        up = re.match(r"decoder\.layers\.(\d+)\.conv\.", name)
        kind = "convtr" if up and int(up[1]) in (3, 7) else "conv"
        name = re.sub(r"\.conv\.", f".{kind}.{kind}.", name).replace(".layers.", ".model.", 1)
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        name = re.sub(r"^quantizer\.model\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", name)
        result[name] = tensor
    return result


def published_mimi(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of moshi, with queries, keys and values in one matrix, whose rotary pairs are neighbours."""
    rules = [
        (r"^(encoder|decoder)\.\1_seanet\.layers\.", r"\1.model."),
        (r"^(encoder|decoder)\.\1_transformer\.", r"\1_transformer.transformer."),
        (r"^encoder\.downsample\.conv\.", "downsample.conv.conv.conv."),
        (r"^decoder\.upsample\.conv\.", "upsample.convtr.convtr.convtr."),
        (r"^decoder\.model\.([25])\.conv\.", r"decoder.model.\1.convtr.convtr."),
        (r"^((?:encoder|decoder)\.model\.[\w.]*)\.conv\.(weight|bias)$", r"\1.conv.conv.\2"),
        ("semantic_residual_vector_quantizer.layers", "rvq_first.vq.layers"),
        ("acoustic_residual_vector_quantizer.layers", "rvq_rest.vq.layers"),
        ("semantic_residual_vector_quantizer", "rvq_first"),
        ("acoustic_residual_vector_quantizer", "rvq_rest"),
        (r"\.codebook\.embed_sum", "._codebook.embedding_sum"),
        (r"\.codebook\.initialized", "._codebook._initialized"),
        (r"\.codebook\.", "._codebook."),
        (r"\.mlp\.fc([12])", r".linear\1"),
        (r"\.o_proj", ".out_proj"),
        ("input_layernorm", "norm1"),
        ("post_attention_layernorm", "norm2"),
        ("self_attn_layer_scale", "layer_scale_1"),
        ("mlp_layer_scale", "layer_scale_2"),
    ]
    result = {}
    for name, tensor in weights.items():
        if name.endswith((".q_proj.weight", ".k_proj.weight")):
            tensor = tensor.view(2, 2, 4, 16).transpose(1, 2).reshape(16, 16)
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        result[name] = tensor
    for name in [name for name in result if name.endswith(".q_proj.weight")]:
        parts = [result.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        result[name.replace(".q_proj.weight", ".in_proj_weight")] = torch.cat(parts)
    return result


PUBLISHED: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "dac": published_dac,
    "encodec": published_encodec,
    "mimi": published_mimi,
}


@layouts
def test_published_names_give_the_same(layout: str) -> None:
    model = peer_of(layout)
    own, published = converted(layout, model), converted(layout, model, PUBLISHED[layout](model.state_dict()))
    x_BCT = sounds(own.config.stride[0])
    codes = own.encode(x_BCT)
    assert torch.equal(published.encode(x_BCT), codes)
    torch.testing.assert_close(published.decode(codes), own.decode(codes), atol=1e-4, rtol=0)
    assert published.config.seanet.weight_norm == (layout != "mimi")


@torch.no_grad()
def test_dac_goes_out_as_it_came_in(tmp_path: Path) -> None:
    model = peer_of("dac")
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = read_checkpoint(tmp_path / "theirs", None)
    made, _ = convert_checkpoint(checkpoint, "dac")
    tokenizer = build(made, "theirs")
    assert tokenizer.config.quantizer.codebook_dropout == 0.5
    assert tokenizer.transform is not None and tokenizer.transform.sample_rate == 24000
    tokenizer.save_pretrained(tmp_path / "ours")
    export(str(tmp_path / "ours"), tmp_path / "back", "dac")
    back = DacModel.from_pretrained(tmp_path / "back").eval()
    assert json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())["hop_length"] == 10
    for (name, one), (other_name, other) in zip(model.state_dict().items(), back.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(one, other)
    kept = ("downsampling_ratios", "decoder_hidden_size", "n_codebooks", "codebook_dim", "sampling_rate", "hidden_size")
    assert {key: getattr(back.config, key) for key in kept} == {key: getattr(model.config, key) for key in kept}


@torch.no_grad()
def test_a_weight_norm_is_multiplied_out_on_the_way_to_dac(tmp_path: Path) -> None:
    model = peer_of("dac")
    tokenizer = converted("dac", model, published_dac(model.state_dict()))
    assert tokenizer.config.seanet.weight_norm
    tokenizer.save_pretrained(tmp_path / "ours")
    export(str(tmp_path / "ours"), tmp_path / "back", "dac")
    for name, tensor in load_file(tmp_path / "back" / "model.safetensors").items():
        torch.testing.assert_close(tensor, model.state_dict()[name], atol=1e-6, rtol=1e-5)
    assert not any("parametrizations" in name for name in folded(tokenizer.weights()))


def test_what_dac_lacks_is_named(tmp_path: Path) -> None:
    tokenizer = converted("mimi", peer_of("mimi"))
    tokenizer.save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match=r"DacModel has no model\.quantizer\.projections=split; .*no .*seanet\.causal"):
        export(str(tmp_path / "ours"), tmp_path / "back", "dac")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("layout", "settings", "message"),
    [
        ("encodec", {"normalize": True, "chunk_length_s": 1.0}, "has normalize=True, chunk_length_s=1.0, which is not"),
        ("encodec", {"norm_type": "time_group_norm"}, "norm_type=time_group_norm"),
        ("mimi", {"num_semantic_quantizers": 2}, "num_semantic_quantizers=2"),
        ("mimi", {"rope_theta": 500.0, "rope_parameters": None}, "rope_theta=500.0, not 10000"),
    ],
)
def test_parts_that_are_not_supported_are_named(layout: str, settings: dict[str, Any], message: str) -> None:
    model = peer_of(layout)
    source = source_of(layout, model.state_dict(), model.config)
    with pytest.raises(UserError, match=re.escape(message)):
        LAYOUTS[layout].convert(Source(layout, "peer", source.weights, {}, source.settings | settings, {}))


def test_the_rate_must_be_known() -> None:
    model = peer_of("dac")
    made = LAYOUTS["dac"].convert(Source("dac", "peer", model.state_dict(), {}, {}, {}))
    with pytest.raises(UserError, match="peer doesn't state the rate of its sounds: give --sample_rate"):
        build(made, "peer")
    tokenizer = build(made, "peer", sample_rate=24000)
    assert tokenizer.transform is not None and tokenizer.transform.sizes == (24000,)
