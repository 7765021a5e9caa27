"""EnCodec (Défossez et al. 2022) and Mimi (Défossez et al. 2024), as published and as transformers has them.

Published EnCodec is a flat state of the `encodec` package, or `best_state` of audiocraft; published Mimi a file of
`moshi`, whose rotary positions turn neighbouring channels, where transformers' and ours turn halves.
"""

from __future__ import annotations

from typing import Any

from launch.command.cli import UserError
from stage1_tokenizer.foreign.base import Converted, Source, Weights, codebook, count, find, need, renamed
from stage1_tokenizer.foreign.waveform import NORMS, dilations, numbered, refuse, shaped

PUBLISHED = [
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.(conv|convtr)\.\1\.\1\.", ".conv."),
    (r"\.(conv|convtr)\.\1\.", ".conv."),
    (r"^(down|up)sample\.(conv|convtr)\.", r"\1sample.conv."),
    (r"\._codebook\.", ".codebook."),
    (r"^quantizer\.vq\.", "quantizer."),
    (r"^quantizer\.rvq_first\.(vq\.)?", "quantizer.semantic_residual_vector_quantizer."),
    (r"^quantizer\.rvq_rest\.(vq\.)?", "quantizer.acoustic_residual_vector_quantizer."),
    (r"\.embedding_sum$", ".embed_sum"),
    (r"^(encoder|decoder)_transformer\.transformer\.", r"\1_transformer."),
    (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"\.norm1\.", ".input_layernorm."),
    (r"\.norm2\.", ".post_attention_layernorm."),
    (r"\.layer_scale_1\.", ".self_attn_layer_scale."),
    (r"\.layer_scale_2\.", ".mlp_layer_scale."),
]
"""Published names, and those of a checkpoint of transformers."""

HALVES = [
    (r"^(encoder|decoder)\.\1_(transformer\.)", r"\1_\2"),
    (r"^(encoder|decoder)\.\1_seanet\.", r"\1."),
    (r"^encoder\.downsample\.", "downsample."),
    (r"^decoder\.upsample\.", "upsample."),
]
"""Names inside transformers' Mimi since version 5.2, and in its checkpoints."""

TRANSFORMER = [
    (r"^(encoder|decoder)_transformer\.layers\.", r"\1.transformer.blocks."),
    (r"\.self_attn\.([qkv])_proj\.", r".attention.\1."),
    (r"\.self_attn\.o_proj\.", ".attention.out."),
    (r"\.mlp\.fc([12])\.", r".fc\1."),
    (r"\.input_layernorm\.", ".norm1."),
    (r"\.post_attention_layernorm\.", ".norm2."),
    (r"\.self_attn_layer_scale\.scale$", ".scale1"),
    (r"\.mlp_layer_scale\.scale$", ".scale2"),
    (r"^downsample\.conv\.", "encoder.resample.conv."),
    (r"^upsample\.conv\.", "decoder.resample.conv."),
]

PADDING = {"reflect": "reflect", "constant": "zeros"}
"""What lies beyond the ends: transformers' name, and ours."""

STATISTICS = ("inited", "initialized", "embed_avg", "cluster_size", "cluster_usage", "embed_sum")
"""Buffers of a codebook's moving averages."""


def encodec(source: Source) -> Converted:
    """EnCodec of one piece; that of 48 kHz, which is normalised and works in chunks, is refused."""
    refuse(source, normalize=False, chunk_length_s=None, norm_type="weight_norm", trim_right_ratio=1.0)
    weights = renamed(source.weights, [*NORMS, *PUBLISHED])
    need(weights, "quantizer.layers.0.codebook.embed", source)
    if any(name.startswith("encoder.") and ".norm." in name for name in weights):
        raise UserError(f"{source.where} has group norms over time, as EnCodec of 48 kHz: not supported")
    table = r"^quantizer\.layers\.(\d+)\.codebook\.embed$"
    weights = renamed(without_statistics(weights), [(table, r"quantizer.parts.\1.embedding.weight")])
    weights = numbered(weights, source)
    model = _model(weights, source)
    mode = source.settings.get("pad_mode", "reflect")
    if mode not in PADDING:
        raise UserError(f"{source.where} has pad_mode={mode}, not one of {', '.join(PADDING)}: not supported")
    model["seanet"]["padding"] = PADDING[mode]
    books = count(weights, r"quantizer\.parts\.(\d+)\.")
    name = "quantizer.parts.0.embedding.weight"
    moved: dict[str, Any] = {"kind": "residual", "codebooks": books, "learning": "moving_average"}
    model["quantizer"] = codebook(weights, source, name, **moved)
    default = 24000 if source.settings.get("model_type") == "encodec" else None  # which transformers leaves out
    return Converted(model, weights, rate=find(source.settings, "sampling_rate") or default, notes=_notes(source))


def mimi(source: Source) -> Converted:
    """Mimi, whose first codebook is the semantic one."""
    theta = find(source.settings, "rope_parameters", "rope_theta") or source.settings.get("rope_theta", 10000.0)
    if theta != 10000:
        raise UserError(f"{source.where} has rope_theta={theta}, not 10000: not supported")
    refuse(source, use_causal_conv=True, pad_mode="constant", trim_right_ratio=1.0, num_semantic_quantizers=1)
    refuse(source, hidden_act="gelu", attention_bias=False, norm_eps=1e-5)
    weights = renamed(source.weights, [*NORMS, *PUBLISHED, *HALVES])
    first = "quantizer.semantic_residual_vector_quantizer."
    need(weights, first + "layers.0.codebook.embed_sum", source)
    heads = int(source.settings.get("num_attention_heads", 8))
    weights = renamed(_books(_split(weights, heads), first), TRANSFORMER)
    weights = numbered(weights, source)
    model = _model(weights, source)
    window = int(source.settings.get("sliding_window", 250))
    resampled = weights.get("encoder.resample.conv.weight")
    resample = 1 if resampled is None else resampled.shape[-1] // 2
    model["seanet"] |= {"heads": heads, "window": window, "resample": resample, "block": 2}
    model["quantizer"] = codebook(
        weights,
        source,
        "quantizer.parts.0.embedding.weight",
        kind="residual",
        codebooks=count(weights, r"quantizer\.parts\.(\d+)\."),
        projections="split",
        latent_dim=model["z_channels"],
        learning="moving_average",
    )
    return Converted(model, weights, rate=find(source.settings, "sampling_rate") or 24000, notes=_notes(source))


def _model(weights: Weights, source: Source) -> dict[str, Any]:
    model = shaped(weights, source)
    causal = source.settings.get("use_causal_conv", True)
    model["seanet"] |= {"dilations": dilations(weights, source), "causal": causal}
    return model


def _notes(source: Source) -> list[str]:
    if source.settings:
        return []
    return ["Without a configuration, dilations, padding, heads and window are taken to be as published."]


def without_statistics(weights: Weights) -> Weights:
    """All but the buffers of codebooks' moving averages."""
    return {name: tensor for name, tensor in weights.items() if not name.endswith(STATISTICS)}


def _books(weights: Weights, first: str) -> Weights:
    """Codebooks, which are kept as sums and counts of their vectors, and projections by our names."""
    rest = first.replace("semantic", "acoustic")
    result = without_statistics(weights)
    for number, group in enumerate((first, rest)):
        for layer in range(count(weights, group.replace(".", r"\.") + r"layers\.(\d+)\.")):
            at = f"{group}layers.{layer}.codebook."
            table = weights[at + "embed_sum"] / weights[at + "cluster_usage"].clamp(min=1e-5)[:, None]
            result[f"quantizer.parts.{number + layer}.embedding.weight"] = table
        for theirs, ours in (("input_proj", "to_codes"), ("output_proj", "to_latents")):
            if (projection := result.pop(f"{group}{theirs}.weight", None)) is not None:
                result[f"quantizer.maps.{number}.{ours}.weight"] = projection[..., 0]
    return result


def _split(weights: Weights, heads: int) -> Weights:
    """Published attention has queries, keys and values in one matrix, and pairs of neighbours where ours has halves."""
    result: Weights = {}
    for name, tensor in weights.items():
        if not name.endswith(".self_attn.in_proj_weight"):
            result[name] = tensor
            continue
        for part, third in zip("qkv", tensor.chunk(3), strict=True):
            if part != "v":
                third = third.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
            result[name.replace("in_proj_weight", f"{part}_proj.weight")] = third.contiguous()
    return result
