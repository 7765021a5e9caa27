"""One token of each sequence through a CachedBody, at a place that is a tensor on the device.

The same operations on the same memory serve every place whose cache fits the same length, so that a CUDA graph can hold
them (stage2_prior.generation.graphs). What lies between two layers' attentions can be compiled: one small piece that
all layers share, whatever the length.

Shapes: B sequences, T tokens in the cache, D width, H heads, G key-value heads, M = H / G, d head width, A = H + 2G,
E = A·d, F inner width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from stage1_tokenizer.kernels.cpu.linear import product
from stage2_prior.generation.llama_cache import CachedBody, Norms, added, before_turning, normed

RECOMPILED = 64
"""Shapes that a compiled function may be used with: batch sizes, types and models of one process."""


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that torch.compile makes few kernels of, anew for each shape of its inputs."""
    compiled: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False)

    def call(*inputs: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=RECOMPILED):
            return compiled(*inputs)

    return call


class OneToken:
    """Steps of one token; see CachedBody.extend, whose outputs these equal up to rounding."""

    def __init__(self, body: CachedBody, compiled: bool = False):
        self.body = body
        self.place_T = torch.arange(body.positions, device=body.norm_D.device)
        self._form = _Form(
            body.heads,
            body.groups,
            body.head_width,
            body.epsilon,
            body.rms_epsilon,
            body.norms_before,
            body.together,
            compiled,
        )
        pieces: list[Callable[..., Any]] = [_enter, _between, _leave]
        self._enter, self._between, self._leave = map(fused, pieces) if compiled else pieces

    def __call__(
        self, x_BD: Tensor, place_1: Tensor, visible: int, *, last: bool = False, projected_BE: Tensor | None = None
    ) -> Tensor:
        """The normed output y_BD of tokens at `place_1`, int64; attention reads the first `visible` of the cache.

        `last` says that the place is the last of these; else those after it are masked. `projected_BE` are the tokens'
        `first_projections` where they are known.
        """
        body, batch = self.body, len(x_BD)
        assert body.cache_L2CTd is not None, "start() comes first"
        cache_L2BGTd = body.cache_L2CTd[:, :, : batch * body.groups].unflatten(2, (batch, body.groups))
        turn_d2 = body.turn_T1d2.index_select(0, place_1)[0, 0]
        mask_1T = None
        if not last:  # added to the scores, in their type, so that no layer has to convert it
            hidden_1T = (self.place_T[:visible] > place_1)[None]
            mask_1T = torch.zeros_like(hidden_1T, dtype=x_BD.dtype).masked_fill_(hidden_1T, -torch.inf)
        at = turn_d2, place_1, self._form
        x_BD = x_BD.clone()  # the layers add to it
        layers = [_Layer.of(layer) for layer in body.layers]
        query_BGMd = self._enter(x_BD, projected_BE, layers[0], cache_L2BGTd[0], *at)
        for number, layer in enumerate(layers):
            key_BGTd, value_BGTd = cache_L2BGTd[number, :, :, :, :visible]
            mixed_BGMd = F.scaled_dot_product_attention(query_BGMd, key_BGTd, value_BGTd, mask_1T, scale=1.0)
            if number + 1 < len(layers):
                after, cache_2BGTd = layers[number + 1], cache_L2BGTd[number + 1]
                x_BD, query_BGMd = self._between(x_BD, mixed_BGMd, layer, after, cache_2BGTd, *at)
        y_BD: Tensor = self._leave(x_BD, mixed_BGMd, layer, self._form)
        return y_BD


class _Layer(NamedTuple):
    """The weights of a layer."""

    qkv_ED: Tensor
    out_DD: Tensor
    gated_2FD: Tensor
    down_DF: Tensor
    norms: Norms

    @classmethod
    def of(cls, layer: Any) -> Self:
        """Those of a layer of a CachedBody."""
        halves = layer.gated_2FD.weight, layer.down_DF.weight
        return cls(layer.qkv_ED.weight, layer.out_DD.weight, *halves, layer.norms)


class _Form(NamedTuple):
    """What the pieces below know of the Llama besides its weights."""

    heads: int
    groups: int
    head_width: int
    epsilon: Tensor
    rms_epsilon: float
    norms_before: bool
    together: tuple[int, int] | None
    compiled: bool
    """Whether torch.compile makes few kernels of the operations; else they are chosen to be few themselves."""


def _enter(
    x_BD: Tensor,
    projected_BE: Tensor | None,
    layer: _Layer,
    cache_2BGTd: Tensor,
    turn_d2: Tensor,
    place_1: Tensor,
    form: _Form,
) -> Tensor:
    """A layer's query_BGMd from its input; writes its key and value to its cache."""
    qkv_BE = product(_entering(x_BD, form), layer.qkv_ED) if projected_BE is None else projected_BE
    qkv_BAd = qkv_BE.view(len(x_BD), -1, form.head_width)
    turned_BAd, value_BGd = qkv_BAd.split([form.heads + form.groups, form.groups], dim=1)
    if layer.norms.turned_Ad is not None:
        norm = partial(_normed, form=form)
        turned_BAd = before_turning(turned_BAd, layer.norms.turned_Ad, form.together, norm)
    turned_BAd = _turned(turned_BAd, turn_d2) if form.compiled else _turned_at_once(turned_BAd, turn_d2)
    query_BHd, key_BGd = turned_BAd.split([form.heads, form.groups], dim=1)
    cache_2BGTd[0].index_copy_(2, place_1, key_BGd[:, :, None])
    cache_2BGTd[1].index_copy_(2, place_1, value_BGd[:, :, None])
    return query_BHd.unflatten(1, (form.groups, -1))


def _leave(x_BD: Tensor, mixed_BGMd: Tensor, layer: _Layer, form: _Form) -> Tensor:
    """A layer's normed output, from its input and what its attention has mixed."""
    return _normed(_fed(x_BD, mixed_BGMd, layer, form), form)


def _between(
    x_BD: Tensor,
    mixed_BGMd: Tensor,
    layer: _Layer,
    after: _Layer,
    cache_2BGTd: Tensor,
    turn_d2: Tensor,
    place_1: Tensor,
    form: _Form,
) -> tuple[Tensor, Tensor]:
    """A layer's output and the next one's query_BGMd."""
    x_BD = _fed(x_BD, mixed_BGMd, layer, form)
    return x_BD, _enter(x_BD, None, after, cache_2BGTd, turn_d2, place_1, form)


def _fed(x_BD: Tensor, mixed_BGMd: Tensor, layer: _Layer, form: _Form) -> Tensor:
    """A layer's output, from its input and what its attention has mixed."""
    x_BD = _added(x_BD, mixed_BGMd.reshape(len(x_BD), -1), layer.out_DD, layer.norms, 0, form)
    gate_BF, up_BF = product(_entering(x_BD, form), layer.gated_2FD).chunk(2, dim=-1)
    return _added(x_BD, F.silu(gate_BF) * up_BF, layer.down_DF, layer.norms, 1, form)


def _entering(x_BD: Tensor, form: _Form) -> Tensor:
    """What a product of a layer reads of the residual stream."""
    return _normed(x_BD, form) if form.norms_before else x_BD


def _added(x_BO: Tensor, h_BI: Tensor, weight_OI: Tensor, norms: Norms, which: int, form: _Form) -> Tensor:
    """x_BO + h_BI · weight_OIᵀ; where nothing is compiled added to x_BO itself, by the product, but for a norm."""
    if form.compiled or weight_OI.is_mkldnn or norms.added_2D is not None:
        return x_BO + added(product(h_BI, weight_OI), norms, which, partial(_normed, form=form))
    return x_BO.addmm_(h_BI, weight_OI.t())


def _normed(x_BD: Tensor, form: _Form) -> Tensor:
    """As `normed`; torch's own norm, one kernel on a GPU, where nothing is compiled."""
    return normed(x_BD, form.epsilon) if form.compiled else F.rms_norm(x_BD, x_BD.shape[-1:], eps=form.rms_epsilon)


def _turned_at_once(x_BAd: Tensor, turn_d2: Tensor) -> Tensor:
    """Neighbouring pairs rotated by their angles, in float32, with one product; d in turn_d2 is half the width."""
    pair_BAd2 = x_BAd.float().unflatten(-1, (-1, 2))
    turned_BAd = torch.view_as_complex(pair_BAd2) * torch.view_as_complex(turn_d2)
    return torch.view_as_real(turned_BAd).flatten(-2).to(x_BAd.dtype)


def _turned(x_BAd: Tensor, turn_d2: Tensor) -> Tensor:
    """The same without complex numbers, which torch.compile doesn't fuse."""
    (even_BAd, odd_BAd), (cos_d, sin_d) = x_BAd.float().unflatten(-1, (-1, 2)).unbind(-1), turn_d2.unbind(-1)
    turned_BAd2 = torch.stack([even_BAd * cos_d - odd_BAd * sin_d, even_BAd * sin_d + odd_BAd * cos_d], dim=-1)
    return turned_BAd2.flatten(-2).to(x_BAd.dtype)
