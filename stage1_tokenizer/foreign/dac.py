"""DAC (Kumar et al. 2023), as published (descript-audio-codec) and as transformers' DacModel, in both directions.

As published, layers are numbered parts of `nn.Sequential`, with weight norms; transformers names them and has none.
"""

from __future__ import annotations

import re
from typing import Any

from launch.command.cli import UserError
from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.foreign.base import Converted, Source, Weights, codebook, count, find, need, renamed
from stage1_tokenizer.foreign.waveform import NORMS, folded, shaped

UNIT = {"0": "act1", "1": "conv1.conv", "2": "act2", "3": "conv2.conv"}
"""Parts of a residual unit as published, and ours."""

THEIRS = [
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in.conv."),
    (r"^(encoder|decoder)\.conv2\.", r"\1.conv_out.conv."),
    (r"^(encoder|decoder)\.snake1\.", r"\1.act_out."),
    (r"\.block\.(\d+)\.snake1\.", r".stages.\1.act."),
    (r"\.block\.(\d+)\.conv(_t)?1\.", r".stages.\1.resample.conv."),
    (r"\.block\.(\d+)\.res_unit1\.", r".stages.\1.units.0."),
    (r"\.block\.(\d+)\.res_unit2\.", r".stages.\1.units.1."),
    (r"\.block\.(\d+)\.res_unit3\.", r".stages.\1.units.2."),
    (r"\.units\.(\d)\.snake([12])\.", r".units.\1.act\2."),
    (r"\.units\.(\d)\.conv([12])\.", r".units.\1.conv\2.conv."),
]
"""Names of transformers' networks, and ours."""

QUANTIZER = [
    (r"^quantizer\.quantizers\.(\d+)\.in_proj\.", r"quantizer.maps.\1.to_codes."),
    (r"^quantizer\.quantizers\.(\d+)\.out_proj\.", r"quantizer.maps.\1.to_latents."),
    (r"^quantizer\.quantizers\.(\d+)\.codebook\.", r"quantizer.parts.\1.embedding."),
]


def dac(source: Source) -> Converted:
    """DAC of any rate. Its losses are sums over the codebooks, ours are means."""
    need(source.weights, "quantizer.quantizers.0.codebook.weight", source)
    weights = renamed(source.weights, NORMS)
    published = any(name.startswith("decoder.model.") for name in weights)
    if published:
        weights = _named(weights)
    weights = renamed(folded(weights, r"quantizer\."), [*([] if published else THEIRS), *QUANTIZER])
    flat = {name: tensor[..., 0] for name, tensor in weights.items() if ".maps." in name and tensor.ndim == 3}
    weights |= flat
    model = shaped(weights, source)
    model["seanet"] |= {"dilations": [1, 3, 9], "activation": "snake", "tanh": True, "causal": False}
    model["seanet"]["odd_trim"] = any(stride % 2 for stride in model["seanet"]["strides"])
    books = count(weights, r"quantizer\.parts\.(\d+)\.")
    model["quantizer"] = codebook(
        weights,
        source,
        "quantizer.parts.0.embedding.weight",
        kind="residual",
        codebooks=books,
        projections="each",
        latent_dim=model["z_channels"],
        l2_normalise=True,
        codebook_dropout=float(source.settings.get("quantizer_dropout") or 0.0),
    )
    default = 16000 if source.settings.get("model_type") == "dac" else None  # which transformers leaves out
    rate = find(source.settings, "sampling_rate") or find(source.settings, "sample_rate") or default
    notes = ["A sound of an odd stride ends a few samples early in DAC; here it is as long as what was encoded."]
    return Converted(model, weights, rate=rate, notes=notes if model["seanet"]["odd_trim"] else [])


def _named(weights: Weights) -> Weights:
    """Published names in ours: numbers of nn.Sequential, which count activations and convolutions alike."""
    stages = count(weights, r"encoder\.block\.(\d+)\.") - 3
    result: Weights = {}
    for name, tensor in weights.items():
        if match := re.match(r"(encoder\.block|decoder\.model)\.(\d+)\.(.*)", name):
            side, number = match[1].split(".")[0], int(match[2])
            ends = {0: "conv_in.conv.", stages + 1: "act_out.", stages + 2: "conv_out.conv."}
            inner = ends[number] + match[3] if number in ends else f"stages.{number - 1}.{_inner(side, match[3])}"
            name = f"{side}.{inner}"
        result[name] = tensor
    return result


def _inner(side: str, name: str) -> str:
    """A name within a published block, `block.N.…`, as within our stage."""
    number, rest = re.match(r"block\.(\d)\.(.*)", name).groups()  # type: ignore[union-attr]
    first = 0 if side == "encoder" else 2  # where the three residual units begin
    if first <= int(number) < first + 3:
        part, end = re.match(r"block\.(\d)\.(.*)", rest).groups()  # type: ignore[union-attr]
        return f"units.{int(number) - first}.{UNIT[part]}.{end}"
    return ("act." if int(number) == (first + 3) % 5 else "resample.conv.") + rest


def to_dac(config: ModelConfig, weights: Weights, rate: int) -> tuple[dict[str, Any], Weights]:
    """config.json and tensors of the same model as transformers.DacModel.

    Raises UserError with every setting that DacModel doesn't have.
    """
    if misfits := _misfits(config):
        raise UserError(f"transformers.DacModel has no {'; no '.join(misfits)}: this tokenizer can't be exported to it")
    seanet, quantizer = config.seanet, config.quantizer
    settings = {
        "architectures": ["DacModel"],
        "model_type": "dac",
        "codebook_dim": quantizer.code_dim,
        "codebook_size": quantizer.codebook_size,
        "decoder_hidden_size": (seanet.decoder_channels or config.channels) << len(seanet.strides),
        "downsampling_ratios": list(seanet.strides),
        "encoder_hidden_size": config.channels,
        "n_codebooks": quantizer.codebooks,
        "quantizer_dropout": quantizer.codebook_dropout,
        "sampling_rate": rate,
    }
    theirs = {_their_name(name): tensor for name, tensor in folded(weights).items()}
    return settings, {
        name: tensor[..., None] if re.search(r"_proj\.weight$", name) else tensor for name, tensor in theirs.items()
    }


def _misfits(config: ModelConfig) -> list[str]:
    """Settings of a model that DacModel doesn't have."""
    seanet, quantizer = config.seanet, config.quantizer
    size, odd = quantizer.codebook_size, any(stride % 2 for stride in seanet.strides)
    only: dict[str, tuple[Any, Any]] = {
        "model.backbone": (config.backbone, "seanet"),
        "model.in_channels": (config.in_channels, 1),
        "model.z_channels": (config.z_channels, config.channels << len(seanet.strides)),
        "model.quant_conv_kernel": (config.quant_conv_kernel, 0),
        "model.quantizer.kind": (quantizer.kind, "residual"),
        "model.quantizer.projections": (quantizer.projections, "each"),
        "model.quantizer.l2_normalise": (quantizer.l2_normalise, True),
        "model.quantizer.reparametrise": (quantizer.reparametrise, "none"),
        "model.quantizer.strides": (list(quantizer.strides), []),
        "model.quantizer.codebook_size": (size, 1 << (size.bit_length() - 1)),
    }
    values = {"dilations": [1, 3, 9], "kernels": [7, 3, 7], "compress": 1, "shortcut": "input", "activation": "snake"}
    values |= {
        "tanh": True,
        "lstm": 0,
        "causal": False,
        "padding": "zeros",
        "layers": 0,
        "resample": 1,
        "odd_trim": odd,
    }
    only |= {f"model.seanet.{name}": (getattr(seanet, name), value) for name, value in values.items()}
    return [f"{name}={value}" for name, (value, expected) in only.items() if value != expected]


def _their_name(name: str) -> str:
    """One of our names, in transformers'."""
    up = name.startswith("decoder.")
    pairs = [
        (r"\.conv_in\.conv\.", ".conv1."),
        (r"\.conv_out\.conv\.", ".conv2."),
        (r"\.act_out\.", ".snake1."),
        (r"\.stages\.(\d+)\.act\.", r".block.\1.snake1."),
        (r"\.stages\.(\d+)\.resample\.conv\.", r".block.\1.conv_t1." if up else r".block.\1.conv1."),
        (r"\.units\.(\d)\.act([12])\.", r".units.\1.snake\2."),
        (r"\.units\.(\d)\.conv([12])\.conv\.", r".units.\1.conv\2."),
        (r"^quantizer\.maps\.(\d+)\.to_codes\.", r"quantizer.quantizers.\1.in_proj."),
        (r"^quantizer\.maps\.(\d+)\.to_latents\.", r"quantizer.quantizers.\1.out_proj."),
        (r"^quantizer\.parts\.(\d+)\.embedding\.", r"quantizer.quantizers.\1.codebook."),
    ]
    for ours, theirs in pairs:
        name = re.sub(ours, theirs, name)
    return re.sub(
        r"\.stages\.(\d+)\.units\.(\d)\.", lambda found: f".block.{found[1]}.res_unit{int(found[2]) + 1}.", name
    )
