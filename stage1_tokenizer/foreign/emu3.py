"""Emu3's vision tokenizer: a tokenizer of pictures with layers along time.

Both as it is published (Emu3-VisionTokenizer) and as transformers saves it (Emu3VQVAE), which has other names.
"""

from __future__ import annotations

from typing import Any

from launch.command.cli import UserError
from stage1_tokenizer.foreign.base import Converted, Source, Weights, codebook, count, need, networks, renamed

RULES = [
    (r"^quantize\.", "quantizer."),
    (r"^(en|de)coder\.(?:down_block\.|up_block\.)?(down|up|mid)\.", r"\1coder.frames.\2."),
    (r"^(en|de)coder\.middle_block\.", r"\1coder.frames.mid."),
    (r"^(en|de)coder\.(conv_in|norm_out|conv_out)\.", r"\1coder.frames.\2."),
    (r"\.mid\.attn_norm\.", ".mid.attn_1.norm."),
    (r"\.attn_norms\.(\d+)\.", r".attn.\1.norm."),
    (r"\.(q|k|v)_proj\.", r".\1."),
    (r"\.out_proj\.", ".proj_out."),
    (r"\.norm_layer\.", ".norm."),
    (r"\.conv_y\.", ".scale."),
    (r"\.conv_b\.", ".offset."),
    (r"^encoder\.time_conv\.(\d+)\.conv\.conv\.", r"encoder.down.\1."),
    (r"^decoder\.time_conv\.(\d+)\.conv\.conv\.", r"decoder.up.\1."),
    (r"\.time_res_stack\.", ".stack."),
    (r"\.stack\.(\d+)\.conv(\d)\.conv\.", r".stack.\1.conv\2."),
    (r"^quant_conv\.conv\.", "encoder.quant_conv."),
    (r"^post_quant_conv\.conv\.", "decoder.post_quant_conv."),
    (r"^decoder\.frames\.conv_out\.", "decoder.conv_out."),
]

EPSILON = 1e-5
"""Of its batch norms."""


def emu3(source: Source) -> Converted:
    """Emu3's tokenizer; its batch norms become the affine maps that they are in evaluation."""
    need(source.weights, "encoder.time_conv.0.conv.conv.weight", source)
    for name, value in (("num_attention_heads", 1), ("double_latent", False), ("double_z", False)):
        if (given := source.settings.get(name, value)) != value:
            raise UserError(f"{source.where} has {name}={given}, not {value}: not supported")
    weights = _folded(renamed(source.weights, RULES))
    for name in [name for name in weights if ".attn" in name and weights[name].ndim == 2]:
        weights[name] = weights[name][..., None, None]
    weights["decoder.conv_out.weight"] = need(weights, "decoder.conv_out.weight", source).unsqueeze(2)
    model = _model(weights, source)
    notes = [
        "Clips have 4 frames for each frame of codes; a picture is one of them, 4 times, as in Emu3.",
        "Batch norms became affine maps, which fine-tuning trains as such.",
    ]
    return Converted(model, weights, notes=notes)


def _folded(weights: Weights) -> Weights:
    """Batch norms as a factor and an offset of each channel."""
    result = {name: tensor for name, tensor in weights.items() if not name.endswith(".num_batches_tracked")}
    for name in [name.removesuffix(".running_var") for name in weights if name.endswith(".running_var")]:
        mean, variance = result.pop(f"{name}.running_mean"), result.pop(f"{name}.running_var")
        factor = result[f"{name}.weight"] * (variance + EPSILON).rsqrt()
        result[f"{name}.weight"] = factor
        result[f"{name}.bias"] = result[f"{name}.bias"] - mean * factor
    return result


def _model(weights: Weights, source: Source) -> dict[str, Any]:
    frames = {name.replace("coder.frames.", "coder."): tensor for name, tensor in weights.items()}
    model = networks(frames, source)
    levels, channels = len(model["channel_multipliers"]), need(weights, "encoder.quant_conv.weight", source).shape[0]
    if channels != model["z_channels"]:
        raise UserError(
            f"{source.where} has latent_channels ({model['z_channels']}) unlike embed_dim ({channels}): not supported"
        )
    halved = count(weights, r"encoder\.down\.(\d+)\.")
    if halved > levels - 1:
        raise UserError(f"{source.where} halves time {halved} times in {levels} levels: not supported")
    at = [level for level in range(levels) if f"encoder.frames.down.{level}.attn.0.q.weight" in weights]
    return model | {
        "backbone": "movq",
        "spatial_dims": 3,
        "video": {"time_strides": [1] * (levels - 1 - halved) + [2] * halved},
        "attention_levels": at,
        "attention_middle": True,
        "quant_conv_kernel": 0,
        "quantizer": codebook(weights, source, kind="vq"),
    }
