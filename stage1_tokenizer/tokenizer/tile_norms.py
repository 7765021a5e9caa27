"""Group norms that use the statistics of all tiles of a picture instead of each tile's own.

    norms = SharedNorms(network)
    with norms.gathered():
        for tile in tiles: network(tile)
    with norms.applied():
        results = [network(tile) for tile in tiles]

With its own statistics a tile's brightness and colours depend on its content, so that neighbouring tiles differ.
Legend: B batch, C channels, H W pixels, h w latent grid, D latent channels, N positions, G groups.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.layers.precision import as_weights_of, at_least_float32
from stage1_tokenizer.networks.maskgit import AdaptiveNorm


class SharedNorms:
    """The group norms of a network, made to share statistics; false if it has none (a `vit` has layer norms).

    In the first pass norms still use each tile's own statistics, so what it gathers is close, but not equal, to the
    whole picture's statistics. All tiles must have one size.
    """

    def __init__(self, network: nn.Module):
        self._norms = [part for part in network.modules() if isinstance(part, (Norm, AdaptiveNorm))]
        self._means: dict[nn.Module, list[list[Tensor]]] = {}

    def __bool__(self) -> bool:
        return bool(self._norms)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside the block norms work as usual, and their inputs' statistics are gathered."""
        with _hooked(norm.register_forward_pre_hook(self._gather) for norm in self._norms):
            yield

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block norms use the mean of the gathered statistics."""
        with _hooked(norm.register_forward_hook(self._apply) for norm in self._norms):
            yield

    def _gather(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, (Norm, AdaptiveNorm))
        groups = [norm.num_groups] if isinstance(norm, Norm) else [norm.groups, inputs[1].shape[1]]
        kept = self._means.setdefault(norm, [[] for _ in groups])
        for h_BCHW, each, moments in zip(inputs, groups, kept, strict=True):
            rows_BGN = at_least_float32(h_BCHW).reshape(len(h_BCHW), each, -1)
            var_BG, mean_BG = torch.var_mean(rows_BGN, 2, correction=0)
            moments.append(torch.stack([mean_BG, var_BG + mean_BG.square()]).double())

    def _apply(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(norm, (Norm, AdaptiveNorm))
        h_BCHW = at_least_float32(inputs[0])
        (mean_BG, var_BG), *of_latents = (_pooled(moments, h_BCHW) for moments in self._means[norm])
        if isinstance(norm, Norm):
            weight, bias, epsilon = norm.weight, norm.bias, norm.eps
        else:
            mean_BD, var_BD = of_latents[0]
            weight = norm.gamma(as_weights_of(norm.gamma, (var_BD + 1e-6).sqrt()))
            bias, epsilon = norm.beta(as_weights_of(norm.beta, mean_BD)), 1e-6
        each = h_BCHW.shape[1] // mean_BG.shape[1]
        scale_BC = (var_BG + epsilon).rsqrt().repeat_interleave(each, 1) * weight
        offset_BC = bias - mean_BG.repeat_interleave(each, 1) * scale_BC
        shape = (*scale_BC.shape, *[1] * (h_BCHW.ndim - 2))
        normed_BCHW = h_BCHW * scale_BC.view(shape) + offset_BC.view(shape)
        return (F.silu(normed_BCHW) if isinstance(norm, Norm) and norm.swish else normed_BCHW).to(output.dtype)


def _pooled(moments: list[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over all tiles."""
    mean_BG, square_BG = torch.stack(moments).mean(0)
    return mean_BG.to(like), (square_BG - mean_BG.square()).clamp_min(0).to(like)


@contextmanager
def _hooked(hooks: Iterator[Any]) -> Iterator[None]:
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
