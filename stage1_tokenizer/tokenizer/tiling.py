"""Large pictures in overlapping tiles, which take the memory of one tile and hardly show seams.

    large = TiledTokenizer(tokenizer, tile=512, overlap=128)
    codes = large.encode(pictures)
    pictures = large.decode(codes)

The tiles' latents are blended and then quantized together; the tiles' pixels are blended after decoding. Where tiles
overlap, the outermost quarter of the overlap is context only (at its edge a tile sees zeros instead of the picture),
the middle half fades from one tile to the other, and the innermost quarter is the tile's alone. Group norms take their
statistics from a first pass over all tiles (`stage1_tokenizer.tokenizer.tile_norms`): with each tile's own statistics,
neighbours would differ in brightness and colour. Attention is limited to a tile. Results are therefore close, but not
equal, to those of the whole picture, and flat areas may show faint steps. Larger tiles are closer.

Legend: B batch, C channels, H W pixels, h w latent grid, D latent channels; tiles are measured in latent positions.
"""

import math
import operator
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from stage1_tokenizer.layers.precision import as_weights_of, at_least_float32
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.tile_norms import SharedNorms


class TiledTokenizer(Tokenizer):
    """A tokenizer's encode, decode and reconstruct, tile by tile. It shares the tokenizer's networks.

    `tile` and `overlap` are sides in pixels, multiples of the stride. Tiles should be at least as large as the training
    pictures. Pictures may be on another device than the networks; only tiles are moved. `shared=False` leaves each tile
    its own group norm statistics and takes half the time.
    """

    def __init__(self, tokenizer: Tokenizer, tile: int = 512, overlap: int = 128, *, shared: bool = True):
        nn.Module.__init__(self)
        self.__dict__.update(tokenizer.__dict__)
        strides = self.config.stride
        stride = math.lcm(*strides)
        if self.config.latent_tokens:
            raise ValueError(
                f"model.vit.latent_tokens={self.config.latent_tokens} describe a whole picture, so tiles are not "
                f"supported: resize the picture to {self.config.vit.size}"
            )
        if self.config.first_alone:
            raise ValueError(
                "the first frame has codes of its own with this model.video, so tiles are not supported: use "
                "stage1_tokenizer.tokenizer.streaming.Stream for long clips, or smaller frames"
            )
        for name, value, least in (("tile", tile, stride), ("overlap", overlap, 0)):
            if value % stride or value < least:
                raise ValueError(
                    f"{name}={value} must be a multiple of the stride {stride}, at least {least}: set it to "
                    f"{max(round(value / stride) * stride, least)}"
                )
        if overlap > tile // 2:
            raise ValueError(f"overlap={overlap} is more than half of tile={tile}: set it to {tile // 2} or less")
        self.tile = tuple(tile // step for step in strides)
        self.overlap = tuple(overlap // step for step in strides)
        self.shared = shared

    def _latents(self, x_BCHW: Tensor) -> Tensor:
        return self._over_tiles(super()._latents, x_BCHW, self.config.stride, (1,) * self.config.spatial_dims)

    def _pictures(self, latents_BDhw: Tensor) -> Tensor:
        ones = (1,) * self.config.spatial_dims
        return as_weights_of(self, self._over_tiles(super()._pictures, latents_BDhw, ones, self.config.stride))

    def _over_tiles(
        self, network: Callable[[Tensor], Tensor], source: Tensor, sides_in: Sequence[int], sides_out: Sequence[int]
    ) -> Tensor:
        """network(source), blended; `sides_in` and `sides_out` are a latent position's sides in input and output."""
        device = next(self.parameters()).device
        grid = [size // side for size, side in zip(source.shape[2:], sides_in, strict=True)]
        starts = [first_positions(*sizes) for sizes in zip(grid, self.tile, self.overlap, strict=True)]
        places, norms = list(product(*starts)), SharedNorms(self)

        def through(place: Sequence[int]) -> Tensor:
            return network(_window(source, place, self.tile, sides_in).to(device))

        if not self.shared or not norms or len(places) == 1:
            return self._blended(through, starts, grid, sides_out)
        with torch.no_grad(), norms.gathered():
            for place in places:
                through(place)
        with norms.applied():
            return self._blended(through, starts, grid, sides_out)

    def _blended(
        self,
        through: Callable[[Sequence[int]], Tensor],
        starts: Sequence[Sequence[int]],
        grid: list[int],
        sides_out: Sequence[int],
    ) -> Tensor:
        """The output of `through` for each tile, blended over a grid of latent positions."""
        blended, weights = None, [torch.zeros(side) for side in map(operator.mul, grid, sides_out)]
        for axis, weight in enumerate(weights):
            for start in starts[axis]:
                weight[_cut(start, self.tile[axis], sides_out[axis])] += self._shares(
                    axis, start, grid[axis], sides_out[axis]
                )
        for place in product(*starts):
            part = at_least_float32(through(place))
            for axis, start in enumerate(place):
                where = _cut(start, self.tile[axis], sides_out[axis])
                share = self._shares(axis, start, grid[axis], sides_out[axis]) / weights[axis][where]
                part = part * _along(share.to(part), axis, len(grid))
            if blended is None:
                blended = part.new_zeros(*part.shape[:2], *map(len, weights))
            _window(blended, place, self.tile, sides_out).add_(part)
        assert blended is not None
        return blended

    def _shares(self, axis: int, start: int, size: int, scale: int) -> Tensor:
        """How much of each of a tile's positions along one axis goes into the result, before the shares are scaled."""
        length, overlap = min(self.tile[axis], size) * scale, self.overlap[axis] * scale
        share, inside = torch.ones(length), torch.arange(length) + 0.5
        if overlap and start > 0:
            share *= _ramp(inside, overlap)
        if overlap and start + self.tile[axis] < size:
            share *= _ramp(inside, overlap).flip(0)
        return share


def first_positions(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles start along an axis: evenly spaced; the last one ends with the axis."""
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def _ramp(inside: Tensor, overlap: int) -> Tensor:
    """Rises from 0 to 1 over the middle half of the overlap, by the distance from the tile's edge."""
    return ((inside - overlap / 4) / (overlap / 2)).clamp(0, 1)


def _cut(start: int, tile: int, scale: int) -> slice:
    return slice(start * scale, (start + tile) * scale)


def _window(h: Tensor, place: Sequence[int], tile: Sequence[int], scale: Sequence[int]) -> Tensor:
    cuts: list[Any] = list(map(_cut, place, tile, scale))
    return h[(..., *cuts)]


def _along(share: Tensor, axis: int, axes: int) -> Tensor:
    return share.view([-1 if number == axis else 1 for number in range(axes)])
