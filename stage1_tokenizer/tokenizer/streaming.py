"""Sounds and videos part by part: to codes while they are recorded, and back while codes arrive.

    stream = Stream(tokenizer)
    for samples in microphone:
        codes = stream.encode(samples)
    codes = stream.encode(rest, last=True)

Codes and samples are those of `encode` and `decode` of the whole, to the bit: both take `model.seanet.block` frames of
codes at a time, or `model.video.block` after the first, so a part may give nothing yet. Only causal networks can be
streamed.

Legend: B batch, C channels, T samples or frames, H W pixels, t h w latent grid, G codebooks.
"""

from typing import Any

import torch
from torch import Tensor

from stage1_tokenizer.layers.precision import ieee
from stage1_tokenizer.tokenizer.codec import Codec


class Stream:
    """A sound or video on its way to codes, or codes on their way back; each direction has its own state.

    ValueError for a tokenizer whose networks aren't causal.
    """

    def __init__(self, tokenizer: Codec):
        if not tokenizer.config.block:
            raise ValueError(
                f"a tokenizer of model.backbone={tokenizer.config.backbone} that isn't causal can't be streamed: train "
                f"one with model.video.causal=true, or of sounds backbone=seanet with model.seanet.causal=true, or "
                f"encode the whole"
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

        Of frames (B, C, T, H, W), codes (B, t, h, w). With `last`, those of all samples; ValueError unless all parts
        together are a multiple of the stride, or 1 more of a video.
        """
        tokenizer, begins = self.tokenizer, not self._encoding
        axis, first, hop = tokenizer._time
        size, first = tokenizer.config.block * hop, first * begins
        now, self._samples = _cut(self._samples, x_BCT, size, last, axis, first)
        if not now.shape[axis]:
            others = [side // step for side, step in zip(now.shape[3:], tokenizer.config.stride[1:], strict=True)]
            shape = tokenizer.quantizer.codes_shape((0, *others))
            return torch.zeros(len(now), *shape, dtype=torch.int64, device=now.device)
        tokenizer._need_codes()
        tokenizer._check_pictures(now, begins=begins)
        codes = tokenizer._quantize(now, self._encoding).codes
        assert codes is not None
        return codes

    @ieee()
    @torch.no_grad()
    def decode(self, codes: Tensor, *, last: bool = False) -> Tensor:
        """The samples x_BCT (or frames) that are certain with these further codes; T may be 0. With `last`, all."""
        tokenizer = self.tokenizer
        axis, first, _ = tokenizer._time
        size, first = tokenizer.config.block, first * (not self._decoding)
        now, self._codes = _cut(self._codes, codes, size, last, axis, first)
        if not now.shape[axis]:
            others = [side * step for side, step in zip(now.shape[axis:][1:], tokenizer.config.stride[1:], strict=True)]
            return torch.zeros(len(now), tokenizer.config.in_channels, 0, *others, device=now.device)
        return tokenizer._decode(now, self._decoding)


def _cut(
    before: Tensor | None, part: Tensor, size: int, last: bool, axis: int, first: int
) -> tuple[Tensor, Tensor | None]:
    """What can be computed now, whole blocks (after the `first`) unless it is the last, and what has to wait."""
    whole = part if before is None else torch.cat([before, part], axis)
    length = whole.shape[axis]
    count = length if last or length < first else first + (length - first) // size * size
    return whole.narrow(axis, 0, count), None if last else whole.narrow(axis, count, length - count)
