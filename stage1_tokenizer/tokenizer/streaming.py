"""Sounds part by part: to codes while they are recorded, and back while codes arrive.

    stream = Stream(tokenizer)
    for samples in microphone:
        codes = stream.encode(samples)
    codes = stream.encode(rest, last=True)

Codes and waveforms are those of `encode` and `decode` of the whole sound, to the bit: both take
`model.seanet.block` frames at a time, so a part may give nothing yet. Only causal networks can be streamed.

Legend: B batch, C channels, T samples, t frames, G codebooks.
"""

from typing import Any

import torch
from torch import Tensor

from stage1_tokenizer.layers.precision import ieee
from stage1_tokenizer.tokenizer.codec import Codec


class Stream:
    """A sound on its way to codes, or codes on their way to a sound; each direction has its own state.

    ValueError for a tokenizer whose networks aren't causal.
    """

    def __init__(self, tokenizer: Codec):
        if not tokenizer.config.block:
            raise ValueError(
                f"a tokenizer of model.backbone={tokenizer.config.backbone} that isn't causal can't be streamed: train "
                f"one of backbone=seanet with model.seanet.causal=true, or encode whole sounds"
            )
        self.tokenizer = tokenizer
        self._encoding: dict[Any, Any] = {}
        self._decoding: dict[Any, Any] = {}
        self._samples: Tensor | None = None
        self._codes: Tensor | None = None

    @ieee()
    @torch.no_grad()
    def encode(self, x_BCT: Tensor, *, last: bool = False) -> Tensor:
        """The codes (B, G, t) that are certain with these further samples, in [-1, 1]; t may be 0.

        With `last`, those of all samples; ValueError unless all parts together are a multiple of the stride.
        """
        tokenizer, block = self.tokenizer, self.tokenizer.config.block
        now, self._samples = _cut(self._samples, x_BCT, block * tokenizer.config.stride[0], last)
        if not now.shape[-1]:
            return torch.zeros(len(now), *tokenizer.quantizer.codes_shape((0,)), dtype=torch.int64, device=now.device)
        tokenizer._need_codes()
        tokenizer._check_pictures(now)
        codes = tokenizer._quantize(now, self._encoding).codes
        assert codes is not None
        return codes

    @ieee()
    @torch.no_grad()
    def decode(self, codes: Tensor, *, last: bool = False) -> Tensor:
        """The samples x_BCT that are certain with these further codes (B, G, t); T may be 0. With `last`, all."""
        tokenizer = self.tokenizer
        now, self._codes = _cut(self._codes, codes, tokenizer.config.block, last)
        if not now.shape[-1]:
            return torch.zeros(len(now), tokenizer.config.in_channels, 0, device=now.device)
        return tokenizer._decode(now, self._decoding)


def _cut(before: Tensor | None, part: Tensor, size: int, last: bool) -> tuple[Tensor, Tensor | None]:
    """What can be computed now, whole blocks unless it is the last, and what has to wait."""
    whole = part if before is None else torch.cat([before, part], dim=-1)
    count = whole.shape[-1] if last else whole.shape[-1] // size * size
    return whole[..., :count], None if last else whole[..., count:]
