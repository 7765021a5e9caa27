"""taming-transformers' VQGAN (CompVis) and projects with its layout: GumbelVQ, latent diffusion's VQModel, IBQ, VAR.

Our names are theirs, except for `quantize`. IBQ chooses codes differently; VAR joins q, k, v and has its own quantizer.
"""

from __future__ import annotations

from typing import Any

from launch.command.cli import UserError
from stage1_tokenizer.foreign.base import (
    Converted,
    Source,
    Weights,
    conv_model,
    count,
    dropout,
    find,
    lightning,
    lightning_size,
    need,
    renamed,
    without,
)


def taming(source: Source) -> Converted:
    """VQModel and GumbelVQ. β = 0.25 weights the codebook term, as in its legacy loss."""
    weights = renamed(source.weights, [(r"^quantize\.", "quantizer.")])
    if "quantizer.used" in weights:
        raise UserError(
            f"{source.where} renumbers its codes (quantize.used), which is not supported: convert one without"
        )
    quantizer: dict[str, Any]
    if "quantizer.proj.weight" in weights:
        weights = renamed(weights, [(r"^quantizer\.embed\.", "quantizer.embedding.")])
        weights["quantizer.proj.weight"] = weights["quantizer.proj.weight"].flatten(1)  # a 1x1 convolution
        kl = find(lightning(source.settings), "kl_weight")
        quantizer = {"kind": "gumbel", "kl_weight": 1e-8 if kl is None else float(kl)}
    else:
        quantizer = {"kind": "vq", "beta_placement": "legacy"}
    return _converted(weights, source, "taming", quantizer)


def ibq(source: Source) -> Converted:
    """IBQ of SEED-Voken: the code with the largest inner product."""
    settings = lightning(source.settings)
    quantizer: dict[str, Any] = {"kind": "ibq", "commitment": float(settings.get("beta") or 0.25)}
    quantizer["entropy_temperature"] = float(settings.get("entropy_temperature") or 0.01)
    if settings.get("use_entropy_loss") is False:
        quantizer["entropy_weight"] = 0.0
    weights = renamed(source.weights, [(r"^quantize\.", "quantizer.")])
    return _converted(weights, source, "ibq", quantizer)


def _converted(weights: Weights, source: Source, layout: str, quantizer: dict[str, Any]) -> Converted:
    codes, dim = need(weights, "quantizer.embedding.weight", source, layout).shape
    model = conv_model(weights, source, layout)
    model |= {
        "dropout": dropout(source.settings),
        "quantizer": {**quantizer, "codebook_size": codes, "code_dim": dim},
    }
    return Converted(model, without(weights, "colorize"), lightning_size(source.settings))


SCALES = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
"""VAR's published scales for 256 pixels; a checkpoint only has their number."""


def var(source: Source) -> Converted:
    """VAR's multi-scale VQVAE: q, k, v in one convolution, 3x3 convolutions around the quantizer, four shared φ."""
    need(source.weights, "quantize.embedding.weight", source, "var")
    weights: Weights = {}
    for name, tensor in source.weights.items():
        if ".qkv." in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                weights[name.replace(".qkv.", f".{part}.")] = third.contiguous()
        else:
            weights[name] = tensor
    hits = weights.pop("quantize.ema_vocab_hit_SV", None)
    weights = renamed(
        weights,
        [
            (r"^quantize\.embedding\.", "quantizer.codebook.embedding."),
            (r"^quantize\.quant_resi\.qresi_ls\.(\d+)\.", r"quantizer.phi.\1.conv."),
        ],
    )
    model, (codes, dim) = conv_model(weights, source, "var"), weights["quantizer.codebook.embedding.weight"].shape
    chosen = find(source.changes, "quantizer", "scales")
    scales = source.settings.get("v_patch_nums") or chosen or source.settings.get("scales") or SCALES
    if hits is not None and len(hits) != len(scales):
        raise UserError(
            f"{source.where} has {len(hits)} scales, not {len(scales)} as in {list(scales)}: set them with "
            f"--model.quantizer.scales"
        )
    if count(weights, r"quantizer\.phi\.(\d+)\.") != min(4, len(scales)):
        raise UserError(
            f"{source.where} doesn't share 4 convolutions φ among its scales (share_quant_resi): not supported"
        )
    model["quantizer"] = {"kind": "multiscale", "scales": list(scales), "codebook_size": codes, "code_dim": dim}
    model["dropout"] = 0.0
    notes = ["φ is taken as half its input and half its convolution (quant_resi=0.5), as published."]
    if not source.settings and not chosen:
        notes.append(f"The scales are those published for 256 pixels, {list(scales)}.")
    return Converted(model, weights, None, notes)
