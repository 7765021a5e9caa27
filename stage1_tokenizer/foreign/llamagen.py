"""LlamaGen's VQ-8 and VQ-16: taming's networks with other names; the decoder's levels are counted from the lowest."""

from __future__ import annotations

from stage1_tokenizer.foreign.base import (
    Converted,
    Source,
    Weights,
    conv_model,
    count,
    levels_turned,
    need,
    renamed,
    without,
)

RULES = [
    (r"^quantize\.", "quantizer."),
    (r"^encoder\.conv_blocks\.(\d+)\.", r"encoder.down.\1."),
    (r"^decoder\.conv_blocks\.(\d+)\.", r"decoder.up.\1."),
    (r"\.(down|up)\.(\d+)\.res\.", r".\1.\2.block."),
    (r"coder\.mid\.0\.", "coder.mid.block_1."),
    (r"coder\.mid\.1\.", "coder.mid.attn_1."),
    (r"coder\.mid\.2\.", "coder.mid.block_2."),
]


def llamagen(source: Source) -> Converted:
    """LlamaGen's VQ. Codes are looked up on the unit sphere; the buffer of recently used codes is dropped."""
    need(source.weights, "encoder.conv_blocks.0.res.0.conv1.weight", source, "llamagen")
    weights = renamed(without(source.weights, "quantize.codebook_used"), RULES)
    levels = count(weights, r"decoder\.up\.(\d+)\.")
    turned_weights: Weights = {levels_turned(name, levels): tensor for name, tensor in weights.items()}
    codes, dim = need(turned_weights, "quantizer.embedding.weight", source, "llamagen").shape
    model = conv_model(turned_weights, source, "llamagen")
    model["quantizer"] = {"kind": "vq", "codebook_size": codes, "code_dim": dim, "l2_normalise": True}
    return Converted(model, turned_weights)
