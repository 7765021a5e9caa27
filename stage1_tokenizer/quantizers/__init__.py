"""Quantizers: latents to codes, with one protocol for all kinds; `build_quantizer(config)` builds one."""

from __future__ import annotations

from collections.abc import Callable

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.quantizers.base import Quantized, Quantizer
from stage1_tokenizer.quantizers.binary import BinarySphericalQuantizer, LookupFreeQuantizer
from stage1_tokenizer.quantizers.fsq import FiniteScalarQuantizer
from stage1_tokenizer.quantizers.gaussian import Gaussian
from stage1_tokenizer.quantizers.gumbel import GumbelQuantizer
from stage1_tokenizer.quantizers.ibq import IndexBackpropagationQuantizer
from stage1_tokenizer.quantizers.multiscale import MultiscaleQuantizer
from stage1_tokenizer.quantizers.product import ProductQuantizer
from stage1_tokenizer.quantizers.residual import ResidualQuantizer
from stage1_tokenizer.quantizers.vq import VectorQuantizer

__all__ = ["KINDS", "MultiscaleQuantizer", "Quantized", "Quantizer", "build_quantizer"]

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
