"""Quantizers: latents to codes, with one protocol for all kinds. `build_quantizer(config)` makes what it names."""

from __future__ import annotations

from collections.abc import Callable

from stage1_tokenizer.quantizer_config import QuantizerConfig
from stage1_tokenizer.quantizers.backpropagation import IndexBackpropagationQuantizer
from stage1_tokenizer.quantizers.base import Quantized, Quantizer
from stage1_tokenizer.quantizers.binary import BinarySphericalQuantizer, LookupFreeQuantizer
from stage1_tokenizer.quantizers.gaussian import Gaussian
from stage1_tokenizer.quantizers.gumbel import GumbelQuantizer
from stage1_tokenizer.quantizers.multiscale import MultiscaleQuantizer
from stage1_tokenizer.quantizers.scalar import FiniteScalarQuantizer
from stage1_tokenizer.quantizers.search import draw_rows, nearest_code
from stage1_tokenizer.quantizers.several import ProductQuantizer, ResidualQuantizer
from stage1_tokenizer.quantizers.vector import Statistics, VectorQuantizer

__all__ = [
    "KINDS",
    "BinarySphericalQuantizer",
    "FiniteScalarQuantizer",
    "Gaussian",
    "GumbelQuantizer",
    "IndexBackpropagationQuantizer",
    "LookupFreeQuantizer",
    "MultiscaleQuantizer",
    "ProductQuantizer",
    "Quantized",
    "Quantizer",
    "ResidualQuantizer",
    "Statistics",
    "VectorQuantizer",
    "build_quantizer",
    "draw_rows",
    "nearest_code",
]

KINDS: dict[str, Callable[[QuantizerConfig], Quantizer]] = {
    "vq": VectorQuantizer,
    "fsq": FiniteScalarQuantizer,
    "lfq": LookupFreeQuantizer,
    "bsq": BinarySphericalQuantizer,
    "gumbel": GumbelQuantizer,
    "ibq": IndexBackpropagationQuantizer,
    "residual": ResidualQuantizer,
    "product": ProductQuantizer,
    "multiscale": MultiscaleQuantizer,
    "gaussian": Gaussian,
}
"""Every kind of quantizer, by its name in the configuration."""


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The quantizer that `config.kind` names."""
    return KINDS[config.kind](config)
