"""taming-transformers' VQGAN (CompVis) and projects with its networks: GumbelVQ, latent diffusion, IBQ, VAR, LlamaGen.

Our names are theirs, except for `quantize`. IBQ chooses codes differently; VAR joins q, k, v and has its own quantizer;
LlamaGen has other names, and counts the decoder's levels from the lowest.
"""

from typing import Any

from launch.command.cli import UserError
from stage1_tokenizer.foreign.base import (
    Converted,
    Source,
    Weights,
    codebook,
    conv_model,
    count,
    find,
    levels_turned,
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
    return _converted(weights, source, quantizer)


def ibq(source: Source) -> Converted:
    """IBQ of SEED-Voken: the code with the largest inner product."""
    settings = lightning(source.settings)
    quantizer: dict[str, Any] = {"kind": "ibq", "commitment": float(settings.get("beta") or 0.25)}
    quantizer["entropy_temperature"] = float(settings.get("entropy_temperature") or 0.01)
    if settings.get("use_entropy_loss") is False:
        quantizer["entropy_weight"] = 0.0
    weights = renamed(source.weights, [(r"^quantize\.", "quantizer.")])
    return _converted(weights, source, quantizer)


def _converted(weights: Weights, source: Source, quantizer: dict[str, Any]) -> Converted:
    model = conv_model(weights, source)
    model["dropout"] = float(find(lightning(source.settings), "ddconfig", "dropout") or 0.0)
    model["quantizer"] = codebook(weights, source, **quantizer)
    return Converted(model, without(weights, "colorize"), lightning_size(source.settings))


VAR = [
    (r"^quantize\.embedding\.", "quantizer.codebook.embedding."),
    (r"^quantize\.quant_resi\.qresi_ls\.(\d+)\.", r"quantizer.phi.\1.conv."),
]
SCALES = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
"""VAR's published scales for 256 pixels; a checkpoint only has their number."""


def var(source: Source) -> Converted:
    """VAR's multi-scale VQVAE: q, k, v in one convolution, 3x3 convolutions around the quantizer, four shared φ."""
    need(source.weights, "quantize.embedding.weight", source)
    weights: Weights = {}
    for name, tensor in source.weights.items():
        if ".qkv." in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                weights[name.replace(".qkv.", f".{part}.")] = third.contiguous()
        else:
            weights[name] = tensor
    hits = weights.pop("quantize.ema_vocab_hit_SV", None)
    weights = renamed(weights, VAR)
    model = conv_model(weights, source) | {"dropout": 0.0}
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
    table = "quantizer.codebook.embedding.weight"
    model["quantizer"] = codebook(weights, source, table, kind="multiscale", scales=list(scales))
    notes = ["φ is taken as half its input and half its convolution (quant_resi=0.5), as published."]
    if not source.settings and not chosen:
        notes.append(f"The scales are those published for 256 pixels, {list(scales)}.")
    return Converted(model, weights, None, notes)


LLAMAGEN = [
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
    need(source.weights, "encoder.conv_blocks.0.res.0.conv1.weight", source)
    weights = renamed(without(source.weights, "quantize.codebook_used"), LLAMAGEN)
    levels = count(weights, r"decoder\.up\.(\d+)\.")
    weights = {levels_turned(name, levels): tensor for name, tensor in weights.items()}
    model = conv_model(weights, source)
    model["quantizer"] = codebook(weights, source, kind="vq", l2_normalise=True)
    return Converted(model, weights)
