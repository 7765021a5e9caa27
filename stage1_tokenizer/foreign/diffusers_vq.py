"""diffusers' VQModel (amused's VQGAN among others), in both directions.

Its networks are taming's with other names: the decoder's levels are counted from the lowest, and attention has linear
layers instead of convolutions. What only one of both has (spatial norms as in MoVQ, other activations) is refused.
"""

import re
from collections.abc import Iterable
from typing import Any

from launch.command.cli import UserError
from stage1_tokenizer.config.model import ModelConfig, attention_levels, norm_groups
from stage1_tokenizer.foreign.base import Converted, Source, Weights, codebook, conv_model, count, levels_turned, need

CLASS = "VQModel"
GROUPS = 32
"""diffusers' groups of a norm, unless its configuration says otherwise."""

_PARTS = [
    (".down_blocks.#.resnets.", ".down.#.block."),
    (".up_blocks.#.resnets.", ".up.#.block."),
    (".down_blocks.#.attentions.", ".down.#.attn."),
    (".up_blocks.#.attentions.", ".up.#.attn."),
    (".down_blocks.#.downsamplers.0.", ".down.#.downsample."),
    (".up_blocks.#.upsamplers.0.", ".up.#.upsample."),
    (".mid_block.resnets.0.", ".mid.block_1."),
    (".mid_block.resnets.1.", ".mid.block_2."),
    (".mid_block.attentions.0.", ".mid.attn_1."),
    (".conv_shortcut.", ".nin_shortcut."),
    (".conv_norm_out.", ".norm_out."),
]
"""Parts of names, diffusers' and ours; # means a number."""
_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
"""Names inside an attention block, including those of diffusers before 0.18."""


def diffusers(source: Source) -> Converted:
    """VQModel in our names; UserError for parts that `conv` doesn't have."""
    _refuse_foreign(source)
    need(source.weights, "encoder.down_blocks.0.resnets.0.conv1.weight", source)
    levels = count(source.weights, r"decoder\.up_blocks\.(\d+)\.")
    weights: Weights = {}
    for name, tensor in source.weights.items():
        ours = _our_name(name, levels)
        weights[ours] = tensor[:, :, None, None] if _is_linear(ours) and tensor.ndim == 2 else tensor
    model = conv_model(weights, source)
    groups = source.settings.get("norm_num_groups", GROUPS)
    for multiplier in model["channel_multipliers"]:
        if norm_groups(width := model["channels"] * multiplier) != groups:
            raise UserError(
                f"{source.where} has norm_num_groups={groups}, ours at {width} channels {norm_groups(width)}"
            )
    model["quantizer"] = codebook(weights, source, kind="vq", beta_placement="legacy")
    return Converted(model, weights)


def _refuse_foreign(source: Source) -> None:
    settings = source.settings
    refused = [
        f"{key}={settings[key]}"
        for key, good in (("_class_name", (CLASS,)), ("norm_type", ("group", None)), ("act_fn", ("silu", "swish")))
        if key in settings and settings[key] not in good
    ]
    blocks = [*settings.get("down_block_types", []), *settings.get("up_block_types", [])]
    refused += [
        f"block type {name}"
        for name in dict.fromkeys(blocks)
        if not re.match(r"(Attn)?(Down|Up)\w*coderBlock2D$", name)
    ]
    if any(".spatial_norm." in name or name.endswith(".norm1.conv_y.weight") for name in source.weights):
        refused.append("spatial norms (MoVQ)")
    if refused:
        raise UserError(f"{source.where} has {', '.join(refused)}, which is not supported: only plain VQModel is")


def _our_name(name: str, levels: int) -> str:
    name = re.sub(r"^quantize\.", "quantizer.", _with_parts(name, _PARTS))
    name = levels_turned(name, levels)
    if match := re.match(r"(.*\.attn(?:_1|\.\d+)\.)(.*)\.(weight|bias)$", name):
        name = f"{match[1]}{_ATTENTION.get(match[2], match[2])}.{match[3]}"
    return name


def _with_parts(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """A name with the first of each pair replaced by the second."""
    for old, new in pairs:
        name = re.sub(re.escape(old).replace(re.escape("#"), r"(\d+)"), new.replace("#", r"\1"), name)
    return name


def _is_linear(name: str) -> bool:
    """Whether a weight is a convolution in ours and a linear layer in diffusers."""
    return re.search(r"\.attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$", name) is not None


def to_diffusers(config: ModelConfig, weights: Weights, size: int | None) -> tuple[dict[str, Any], Weights]:
    """config.json and tensors of the same model as diffusers.VQModel.

    Raises UserError with every setting that VQModel doesn't support.
    """
    if misfits := _misfits(config):
        raise UserError(f"diffusers.VQModel has no {'; no '.join(misfits)}: this tokenizer can't be exported to it")
    levels, at = len(config.channel_multipliers), attention_levels(config)
    widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
    down = ["AttnDownEncoderBlock2D" if number in at else "DownEncoderBlock2D" for number in range(levels)]
    up = ["AttnUpDecoderBlock2D" if number in at else "UpDecoderBlock2D" for number in reversed(range(levels))]
    settings = {
        "_class_name": CLASS,
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": down,
        "force_upcast": False,
        "in_channels": config.in_channels,
        "latent_channels": config.z_channels,
        "layers_per_block": config.res_blocks,
        "lookup_from_codebook": False,
        "mid_block_add_attention": config.attention and config.attention_middle,
        "norm_num_groups": norm_groups(widths[0]),
        "norm_type": "group",
        "num_vq_embeddings": config.quantizer.codebook_size,
        "out_channels": config.in_channels,
        "sample_size": size or 256,
        "scaling_factor": 1.0,
        "up_block_types": up,
        "vq_embed_dim": config.quantizer.code_dim,
    }
    return settings, {
        _their_name(name, levels): tensor.flatten(1) if _is_linear(name) else tensor for name, tensor in weights.items()
    }


def _misfits(config: ModelConfig) -> list[str]:
    """Settings of a model that diffusers.VQModel doesn't support."""
    quantizer, first = config.quantizer, config.channel_multipliers[0]
    groups = {norm_groups(config.channels * multiplier) for multiplier in config.channel_multipliers}
    checks = {
        f"model.backbone={config.backbone}": config.backbone == "conv",
        f"model.spatial_dims={config.spatial_dims}": config.spatial_dims == 2,
        f"model.pixel_range={config.pixel_range}": config.pixel_range == "symmetric",
        f"model.quantizer.kind={quantizer.kind}": quantizer.kind == "vq",
        f"model.quantizer.l2_normalise={quantizer.l2_normalise}": not quantizer.l2_normalise,
        f"model.quantizer.reparametrise={quantizer.reparametrise}": quantizer.reparametrise == "none",
        f"model.quant_conv_kernel={config.quant_conv_kernel}": config.quant_conv_kernel == 1,
        f"norms of {' and '.join(map(str, sorted(groups)))} groups at once": len(groups) == 1,
        f"model.channel_multipliers that begin with {first}": first == 1,
    }
    return [name for name, fits in checks.items() if not fits]


def _their_name(name: str, levels: int) -> str:
    name = levels_turned(name, levels)
    if match := re.match(r"(.*\.attn(?:_1|\.\d+)\.)(\w+)\.(weight|bias)$", name):
        theirs = {ours: theirs for theirs, ours in reversed(_ATTENTION.items())}
        name = f"{match[1]}{theirs[match[2]]}.{match[3]}"
    return re.sub(r"^quantizer\.", "quantize.", _with_parts(name, ((ours, theirs) for theirs, ours in _PARTS)))
