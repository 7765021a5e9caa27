"""The layouts of conv_plus: Open-MAGVIT2 (SEED-Voken), SimVQ, which uses its networks, and MaskGIT's VQGAN.

In the first two `down.N.downsample` is the convolution itself, `up.N.upsample.conv1` the one before the shuffle, and
`mid_block` the middle. MaskGIT's, as saved by open-muse (a flat dictionary), has `mid` and `up.N.upsample_conv`.
"""

from dataclasses import replace
from typing import Any

from launch.command.cli import UserError
from stage1_tokenizer.foreign.base import (
    Converted,
    Source,
    Weights,
    codebook,
    find,
    lightning,
    lightning_size,
    need,
    networks,
    renamed,
    without,
)

RULES = [
    (r"coder\.mid_block\.", "coder.mid."),
    (r"^encoder\.down\.(\d+)\.downsample\.(weight|bias)$", r"encoder.down.\1.downsample.conv.\2"),
    (r"^decoder\.up\.(\d+)\.upsample\.conv1\.", r"decoder.up.\1.upsample.conv."),
    (r"^quantize\.embedding\.", "quantizer.embedding."),
    (r"^quantize\.embedding_proj\.", "quantizer.linear."),
]


def open_magvit2(source: Source) -> Converted:
    """Open-MAGVIT2's lookup-free quantizer: its first channel is a code's lowest bit, ours the highest.

    To keep the codes' numbers, the latent channels are reversed in the three layers that use them.
    """
    need(source.weights, "decoder.adaptive.0.gamma.weight", source)
    weights = renamed(source.weights, RULES)
    for name in [name for name in weights if name.startswith("encoder.conv_out.")]:
        weights[name] = weights[name].flip(0)
    for name in [name for name in weights if name.startswith("decoder.adaptive.") and name.endswith(".weight")]:
        weights[name] = weights[name].flip(1)
    weights["decoder.conv_in.weight"] = need(weights, "decoder.conv_in.weight", source).flip(1)
    model = _plus(weights, source)
    bits = model["z_channels"]
    model["quantizer"] = {"kind": "lfq", "codebook_size": 1 << bits, "code_dim": bits, "entropy_temperature": 0.01}
    return Converted(model, weights, lightning_size(source.settings))


def open_magvit2_video(source: Source) -> Converted:
    """Open-MAGVIT2's tokenizer of videos: its convolutions are causal, its norms over the whole clip are not."""
    need(source.weights, "encoder.conv_in.conv_1.weight", source)
    pictures = replace(source, weights=renamed(source.weights, [(r"\.conv_1\.(weight|bias)$", r".\1")]))
    converted = open_magvit2(pictures)
    levels = len(converted.model["channel_multipliers"])
    convs = [need(converted.weights, f"decoder.up.{level}.upsample.conv.weight", source) for level in range(1, levels)]
    strides = [len(weight) // weight.shape[1] // 4 for weight in convs]
    model = converted.model | {"spatial_dims": 3, "video": {"front": True, "time_strides": strides}}
    size = find(lightning(source.settings), "ddconfig", "resolution")
    notes = [
        "Its group norms are over all frames of a clip: codes depend on later frames, and clips can't be streamed."
    ]
    return replace(converted, model=model, notes=notes, size=size if isinstance(size, int) else None)


def simvq(source: Source) -> Converted:
    """SimVQ: a frozen codebook through one learned affine map."""
    need(source.weights, "quantize.embedding_proj.weight", source)
    weights = renamed(source.weights, RULES)
    model = _plus(weights, source)
    params = find(lightning(source.settings), "quantconfig", "params") or {}
    reparametrise = "affine" if "quantizer.linear.bias" in weights else "linear"
    beta = "legacy" if params.get("legacy", True) and params else "paper"
    model["quantizer"] = codebook(weights, source, kind="vq", reparametrise=reparametrise, beta_placement=beta)
    return Converted(model, weights, lightning_size(source.settings))


def maskgit(source: Source) -> Converted:
    """MaskGIT's tokenizer, whose input and output are in [0, 1].

    The weights of the last layer bring the output to [-1, 1] (exactly: a factor of 2). The input can't be handled this
    way, as the padding is 0 in [0, 1]; `pixel_range: unit` scales it.
    """
    upsample = r"^decoder\.up\.(\d+)\.upsample_conv\."
    need(source.weights, "decoder.up.1.upsample_conv.weight", source)
    weights = renamed(without(source.weights), [(upsample, r"decoder.up.\1.upsample.conv."), *RULES])
    weights["decoder.conv_out.weight"] = need(weights, "decoder.conv_out.weight", source) * 2
    weights["decoder.conv_out.bias"] = need(weights, "decoder.conv_out.bias", source) * 2 - 1
    model = _plus(weights, source)
    model["pixel_range"] = "unit"
    model["conv_plus"] = {"downsample": "pool", "upsample": "nearest", "adaptive_norm": False, "shortcut": "inner"}
    model["quantizer"] = codebook(weights, source, kind="vq", beta_placement="legacy")
    size = source.settings.get("resolution")
    notes = ["Input and output are in [-1, 1]; the scaling to its own [0, 1] is part of the model."]
    return Converted(model, weights, size if isinstance(size, int) else None, notes)


def _plus(weights: Weights, source: Source) -> dict[str, Any]:
    if "quant_conv.weight" in weights or "encoder.mid.block_1.conv1.weight" in weights:
        raise UserError(f"{source.where} has taming's networks, not {source.layout}'s: try --from taming or --from ibq")
    variant = {"adaptive_norm": "decoder.adaptive.0.gamma.weight" in weights}
    return networks(weights, source) | {"backbone": "conv_plus", "conv_plus": variant, "quant_conv_kernel": 0}
