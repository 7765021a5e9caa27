"""WavTokenizer (Ji et al. 2024), as published: EnCodec's encoder, one codebook, and a Vocos decoder with attention."""

from __future__ import annotations

import math

from launch.command.cli import UserError
from stage1_tokenizer.foreign.base import Converted, Source, Weights, codebook, count, find, need, renamed
from stage1_tokenizer.foreign.encodec import PUBLISHED, without_statistics
from stage1_tokenizer.foreign.waveform import NORMS, dilations, numbered, shaped

LOUDEST = 100.0
"""Limit of the magnitudes in its head."""

ENCODEC = [
    (r"^feature_extractor\.encodec\.", ""),
    *NORMS,
    *PUBLISHED,
    (r"^quantizer\.layers\.0\.codebook\.embed$", "quantizer.embedding.weight"),
]
"""Names of its encoder and quantizer; a decoder of EnCodec's is in its checkpoints too, but not used."""

VOCOS = [
    (r"^backbone\.pos_net\.", "decoder.backbone.mixer."),
    (r"^backbone\.convnext\.", "decoder.backbone.blocks."),
    (r"^backbone\.final_layer_norm\.", "decoder.backbone.norm_out."),
    (r"^backbone\.", "decoder.backbone."),
    (r"^head\.out\.", "decoder.backbone.out."),
    (r"\.norm\.scale\.weight$", ".norm.weight"),
    (r"\.norm\.shift\.weight$", ".norm.bias"),
]
"""Names of its decoder."""

NOTE = (
    "Its norms depend on a `bandwidth_id`. Those of 0 are taken, which its own commands use; it was trained with the "
    "same bandwidth for each."
)


def wavtokenizer(source: Source) -> Converted:
    """WavTokenizer of any rate; UserError if it has several codebooks, or other widths and ends than published."""
    need(source.weights, "backbone.pos_net.0.norm1.weight", source)
    settings = find(source.settings, "model", "init_args") or {}
    if (padding := find(settings, "head", "init_args", "padding") or "same") != "same":
        raise UserError(f"{source.where} has padding={padding} in its head, not same: not supported")
    weights = _named(source.weights)
    if more := [name for name in weights if name.startswith("quantizer.layers.1.")]:
        raise UserError(f"{source.where} has more than one codebook ({more[0]}): not supported")
    weights = numbered(weights, source, ["encoder"])
    at = "decoder.backbone."
    width, inner = (len(need(weights, at + name, source)) for name in ("norm.weight", "blocks.0.pwconv1.weight"))
    if inner != 3 * width:
        raise UserError(f"{source.where} has blocks of {inner} channels, not 3 times {width}: not supported")
    model = shaped(weights, source) | {"backbone": "seanet_vocos"}
    model["seanet"] |= {"dilations": dilations(weights, source), "causal": False, "padding": "reflect"}
    model["vocos"] = {
        "hop": math.prod(model["seanet"]["strides"]),
        "window": len(need(weights, at + "out.weight", source)) - 2,
        "width": width,
        "blocks": [4, count(weights, r"decoder\.backbone\.blocks\.(\d+)\.")],
        "attention": True,
        "loudest": LOUDEST,
    }
    model["quantizer"] = codebook(weights, source, kind="vq", learning="moving_average")
    return Converted(model, weights, rate=find(settings, "sample_rate") or 24000, notes=[NOTE])


def _named(weights: Weights) -> Weights:
    """What is used of a checkpoint, by our names; of a norm for each bandwidth_id, the first."""
    parts = ("feature_extractor.encodec.encoder.", "feature_extractor.encodec.quantizer.")
    result = renamed({name: tensor for name, tensor in weights.items() if name.startswith(parts)}, ENCODEC)
    for name, tensor in weights.items():
        if name.startswith(("backbone.", "head.out.")):
            result[name] = tensor[0] if name.endswith((".scale.weight", ".shift.weight")) else tensor
    return without_statistics(renamed(result, VOCOS))
