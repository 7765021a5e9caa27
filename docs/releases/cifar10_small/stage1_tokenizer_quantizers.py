# Made from stage1_tokenizer.quantizers of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_quantizers_vq import VectorQuantizer
from collections.abc import Callable


KINDS: dict[str, Callable[[QuantizerConfig], Quantizer]] = {'vq': VectorQuantizer}


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The quantizer that `config.kind` names."""
    return KINDS[config.kind](config)
