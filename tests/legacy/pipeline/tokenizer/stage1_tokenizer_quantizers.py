# Made from stage1_tokenizer.quantizers of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from collections.abc import Callable
from .stage1_tokenizer_quantizer_config import QuantizerConfig
from .stage1_tokenizer_quantizers_base import Quantizer
from .stage1_tokenizer_quantizers_vector import VectorQuantizer
from .stage1_tokenizer_quantizers_scalar import FiniteScalarQuantizer
from .stage1_tokenizer_quantizers_binary import LookupFreeQuantizer
from .stage1_tokenizer_quantizers_binary import BinarySphericalQuantizer
from .stage1_tokenizer_quantizers_gumbel import GumbelQuantizer
from .stage1_tokenizer_quantizers_backpropagation import IndexBackpropagationQuantizer
from .stage1_tokenizer_quantizers_several import ResidualQuantizer
from .stage1_tokenizer_quantizers_several import ProductQuantizer
from .stage1_tokenizer_quantizers_multiscale import MultiscaleQuantizer
from .stage1_tokenizer_quantizers_gaussian import Gaussian


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
