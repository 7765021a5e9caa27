"""The names and shapes of published tokenizers' checkpoints, stated from their code, not from the converter's rules.

Every function gives a state's names and shapes; `shape` has the numbers that a peer's configuration gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shape:
    """A peer's numbers."""

    ch: int = 128
    mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    z: int = 256
    codes: int = 1024
    dim: int = 256
    attention: tuple[int, ...] = field(default=(4,))

    @property
    def widths(self) -> list[int]:
        return [self.ch * number for number in self.mult]


def conv(name: str, inputs: int, outputs: int, width: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, width, width)} | ({f"{name}.bias": (outputs,)} if bias else {})


def pair(name: str, channels: int) -> Shapes:
    """A norm's two vectors."""
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def block(
    name: str, inputs: int, outputs: int, *, bias: bool = True, shortcut: str = "nin_shortcut", inner=False
) -> Shapes:
    found = pair(f"{name}.norm1", inputs) | conv(f"{name}.conv1", inputs, outputs, 3, bias)
    found |= pair(f"{name}.norm2", outputs) | conv(f"{name}.conv2", outputs, outputs, 3, bias)
    if inputs != outputs:
        found |= conv(f"{name}.{shortcut}", outputs if inner else inputs, outputs, 1, bias)
    return found


def attention(name: str, channels: int) -> Shapes:
    found = pair(f"{name}.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        found |= conv(f"{name}.{part}", channels, channels, 1)
    return found


def joint_attention(name: str, channels: int) -> Shapes:
    """VAR's."""
    return pair(f"{name}.norm", channels) | conv(f"{name}.qkv", channels, 3 * channels, 1) | conv(
        f"{name}.proj_out", channels, channels, 1
    )  # fmt: skip


def linear_attention(name: str, channels: int) -> Shapes:
    """diffusers'."""
    found = pair(f"{name}.group_norm", channels)
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        found |= linear(f"{name}.{part}", channels, channels)
    return found


def levels(shape: Shape, decoder: bool) -> list[tuple[int, list[tuple[int, int]]]]:
    """Level (0: full resolution) and widths of its blocks, in the order in which they are passed."""
    widths = shape.widths
    numbers = list(range(len(widths)))
    found, last = [], widths[-1] if decoder else shape.ch
    for number in reversed(numbers) if decoder else numbers:
        pairs = []
        for _ in range(shape.blocks + decoder):
            pairs.append((last, widths[number]))
            last = widths[number]
        found.append((number, pairs))
    return found


def taming_networks(shape: Shape, attend: Callable[[str, int], Shapes] = attention) -> Shapes:
    """Encoder and decoder of taming-transformers."""
    top, found = shape.widths[-1], conv("encoder.conv_in", 3, shape.ch, 3)
    for side, name in (("encoder", "down"), ("decoder", "up")):
        for number, pairs in levels(shape, side == "decoder"):
            at = f"{side}.{name}.{number}"
            for index, (inputs, outputs) in enumerate(pairs):
                found |= block(f"{at}.block.{index}", inputs, outputs)
                found |= attend(f"{at}.attn.{index}", outputs) if number in shape.attention else {}
            if side == "encoder" and number < len(shape.mult) - 1:
                found |= conv(f"{at}.downsample.conv", pairs[-1][1], pairs[-1][1], 3)
            if side == "decoder" and number > 0:
                found |= conv(f"{at}.upsample.conv", pairs[-1][1], pairs[-1][1], 3)
        found |= block(f"{side}.mid.block_1", top, top) | attend(f"{side}.mid.attn_1", top)
        found |= block(f"{side}.mid.block_2", top, top)
        found |= pair(f"{side}.norm_out", top if side == "encoder" else shape.widths[0])
    found |= conv("encoder.conv_out", top, shape.z, 3) | conv("decoder.conv_in", shape.z, top, 3)
    return found | conv("decoder.conv_out", shape.widths[0], 3, 3)


def taming(shape: Shape) -> Shapes:
    bridges = conv("quant_conv", shape.z, shape.dim, 1) | conv("post_quant_conv", shape.dim, shape.z, 1)
    return taming_networks(shape) | bridges | {"quantize.embedding.weight": (shape.codes, shape.dim)}


def gumbel(shape: Shape) -> Shapes:
    bridges = conv("quant_conv", shape.z, shape.dim, 1) | conv("post_quant_conv", shape.dim, shape.z, 1)
    own = conv("quantize.proj", shape.z, shape.codes, 1) | {"quantize.embed.weight": (shape.codes, shape.dim)}
    return taming_networks(shape) | bridges | own


def var(shape: Shape, scales: int = 10) -> Shapes:
    found = taming_networks(shape, joint_attention)
    found |= conv("quant_conv", shape.z, shape.z, 3) | conv("post_quant_conv", shape.z, shape.z, 3)
    for number in range(4):
        found |= conv(f"quantize.quant_resi.qresi_ls.{number}", shape.z, shape.z, 3)
    return found | {
        "quantize.embedding.weight": (shape.codes, shape.z),
        "quantize.ema_vocab_hit_SV": (scales, shape.codes),
    }


def llamagen(shape: Shape) -> Shapes:
    top, last = shape.widths[-1], len(shape.mult) - 1
    found = conv("encoder.conv_in", 3, shape.ch, 3)
    for side in ("encoder", "decoder"):
        for place, (number, pairs) in enumerate(levels(shape, side == "decoder")):
            at = f"{side}.conv_blocks.{place}"
            for index, (inputs, outputs) in enumerate(pairs):
                found |= block(f"{at}.res.{index}", inputs, outputs)
                found |= attention(f"{at}.attn.{index}", outputs) if number == last else {}
            if place < last:
                resample = "downsample" if side == "encoder" else "upsample"
                found |= conv(f"{at}.{resample}.conv", pairs[-1][1], pairs[-1][1], 3)
        found |= block(f"{side}.mid.0", top, top) | attention(f"{side}.mid.1", top) | block(f"{side}.mid.2", top, top)
        found |= pair(f"{side}.norm_out", top if side == "encoder" else shape.widths[0])
    found |= conv("encoder.conv_out", top, shape.z, 3) | conv("decoder.conv_in", shape.z, top, 3)
    found |= conv("decoder.conv_out", shape.widths[0], 3, 3)
    found |= conv("quant_conv", shape.z, shape.dim, 1) | conv("post_quant_conv", shape.dim, shape.z, 1)
    return found | {"quantize.embedding.weight": (shape.codes, shape.dim), "quantize.codebook_used": (65536,)}


def plain_levels(shape: Shape, decoder: bool) -> list[tuple[int, list[tuple[int, int]]]]:
    """As `levels`, with as many blocks in the decoder as in the encoder."""
    return [(number, pairs[: shape.blocks]) for number, pairs in levels(shape, decoder)]


def magvit(shape: Shape, adaptive: bool = True) -> Shapes:
    """Open-MAGVIT2; without the adaptive norms, SimVQ's networks."""
    top = shape.widths[-1]
    found = conv("encoder.conv_in", 3, shape.ch, 3, bias=False)
    for side, name in (("encoder", "down"), ("decoder", "up")):
        for number, pairs in plain_levels(shape, side == "decoder"):
            at, width = f"{side}.{name}.{number}", pairs[-1][1]
            for index, (inputs, outputs) in enumerate(pairs):
                found |= block(f"{at}.block.{index}", inputs, outputs, bias=False)
            if side == "encoder" and number < len(shape.mult) - 1:
                found |= conv(f"{at}.downsample", width, width, 3)
            if side == "decoder" and number > 0:
                found |= conv(f"{at}.upsample.conv1", width, 4 * width, 3)
            if side == "decoder" and adaptive:
                for part in ("gamma", "beta"):
                    found |= linear(f"decoder.adaptive.{number}.{part}", shape.z, pairs[0][0])
        for index in range(shape.blocks):
            found |= block(f"{side}.mid_block.{index}", top, top, bias=False)
        found |= pair(f"{side}.norm_out", top if side == "encoder" else shape.widths[0])
    found |= conv("encoder.conv_out", top, shape.z, 1) | conv("decoder.conv_in", shape.z, top, 3)
    return found | conv("decoder.conv_out", shape.widths[0], 3, 3)


def simvq(shape: Shape) -> Shapes:
    book = {"quantize.embedding.weight": (shape.codes, shape.dim)}
    return magvit(shape, adaptive=False) | book | linear("quantize.embedding_proj", shape.dim, shape.dim)


def maskgit(shape: Shape) -> Shapes:
    top = shape.widths[-1]
    found = conv("encoder.conv_in", 3, shape.ch, 3, bias=False)
    for side, name in (("encoder", "down"), ("decoder", "up")):
        for number, pairs in plain_levels(shape, side == "decoder"):
            at = f"{side}.{name}.{number}"
            for index, (inputs, outputs) in enumerate(pairs):
                found |= block(f"{at}.block.{index}", inputs, outputs, bias=False, inner=True)
            if side == "decoder" and number > 0:
                found |= conv(f"{at}.upsample_conv", pairs[-1][1], pairs[-1][1], 3)
        for index in range(shape.blocks):
            found |= block(f"{side}.mid.{index}", top, top, bias=False)
        found |= pair(f"{side}.norm_out", top if side == "encoder" else shape.widths[0])
    found |= conv("encoder.conv_out", top, shape.z, 1) | conv("decoder.conv_in", shape.z, top, 3)
    found |= conv("decoder.conv_out", shape.widths[0], 3, 3)
    return found | {"quantize.embedding.weight": (shape.codes, shape.dim)}


def diffusers(shape: Shape) -> Shapes:
    top, last = shape.widths[-1], len(shape.mult) - 1
    found = conv("encoder.conv_in", 3, shape.ch, 3)
    for side, name in (("encoder", "down"), ("decoder", "up")):
        for place, (number, pairs) in enumerate(levels(shape, side == "decoder")):
            at = f"{side}.{name}_blocks.{place}"
            for index, (inputs, outputs) in enumerate(pairs):
                found |= block(f"{at}.resnets.{index}", inputs, outputs, shortcut="conv_shortcut")
                found |= linear_attention(f"{at}.attentions.{index}", outputs) if number in shape.attention else {}
            if place < last:
                found |= conv(f"{at}.{name}samplers.0.conv", pairs[-1][1], pairs[-1][1], 3)
        found |= block(f"{side}.mid_block.resnets.0", top, top) | block(f"{side}.mid_block.resnets.1", top, top)
        found |= linear_attention(f"{side}.mid_block.attentions.0", top) if shape.attention else {}
        found |= pair(f"{side}.conv_norm_out", top if side == "encoder" else shape.widths[0])
    found |= conv("encoder.conv_out", top, shape.z, 3) | conv("decoder.conv_in", shape.z, top, 3)
    found |= conv("decoder.conv_out", shape.widths[0], 3, 3)
    found |= conv("quant_conv", shape.z, shape.dim, 1) | conv("post_quant_conv", shape.dim, shape.z, 1)
    return found | {"quantize.embedding.weight": (shape.codes, shape.dim)}


def patchgan(channels: int = 64, layers: int = 3) -> Shapes:
    """The discriminator of Isola et al.'s code, with batch norm."""
    widths = [channels * min(2**number, 8) for number in range(layers + 1)]
    found, place = conv("main.0", 3, widths[0], 4), 2
    for inputs, outputs in itertools.pairwise(widths):
        found |= conv(f"main.{place}", inputs, outputs, 4, bias=False) | pair(f"main.{place + 1}", outputs)
        found |= {f"main.{place + 1}.{name}": (outputs,) for name in ("running_mean", "running_var")}
        found |= {f"main.{place + 1}.num_batches_tracked": ()}
        place += 3
    return found | conv(f"main.{place}", widths[-1], 1, 4)
