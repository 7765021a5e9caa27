"""A stock Llama's layers with a static key-value cache, by which every kind of prior built on a Llama draws codes.

The loop uses the stock weights, not the modules: q, k, v and the two gated layers are joined, so that a step is few
and large products, and the norms' weights and the attention's scale are folded into the layers after them.

Shapes: B sequences, n new tokens each, T tokens in the cache, D width, H heads, G key-value heads,
A = H + 2G, d head width, E = A·d, F inner width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1_tokenizer.kernels.cpu.linear import Product, on_cpu
from stage1_tokenizer.layers.precision import HALF

ALIGNED = 16
"""On GPUs the number of places in a cache is a multiple of this."""


class Norms(NamedTuple):
    """The weights of a layer's norms that can't be folded into a product; None where the architecture has none."""

    turned_Ad: Tensor | None
    """Of queries and keys (Qwen3, OLMo 2), with attention's scale, (H + G, d)."""
    added_2D: Tensor | None
    """Of what attention and the feed-forward layer add (OLMo 2), which has no norms before these then."""


class _Layer(nn.Module):
    """One decoder layer's weights, joined into few products."""

    def __init__(self, qkv_ED: Tensor, out_DD: Tensor, gated_2FD: Tensor, down_DF: Tensor, norms: Norms):
        super().__init__()
        self.qkv_ED, self.out_DD = Product(qkv_ED), Product(out_DD)
        self.gated_2FD, self.down_DF = Product(gated_2FD), Product(down_DF)
        self.norms = norms


class CachedBody(nn.Module):
    """A stock LlamaModel's outputs (Qwen3Model's, Olmo2Model's), some tokens at a time, which attend to each other.

    Takes the weights as they are when it is built, in their dtype and on their device. Equal to the module's own output
    before its last norm's weight, up to rounding.
    """

    norm_D: Tensor
    epsilon: Tensor
    turn_T1d2: Tensor
    cache_L2CTd: Tensor | None

    def __init__(self, model: Any, positions: int):
        """For sequences of up to `positions` tokens."""
        super().__init__()
        config = model.config
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.register_buffer("norm_D", model.norm.weight.detach())
        device = self.norm_D.device
        # Masks of attention on GPUs are read in units of 16 places; torch would copy others in every layer.
        self.positions = positions if device.type == "cpu" else -(-positions // ALIGNED) * ALIGNED
        self.head_width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.norms_before = hasattr(model.layers[0], "input_layernorm")
        self.together: tuple[int, int] | None = None
        """Heads of queries and of keys that share a norm; None where each has its own, or there is none."""
        self.rms_epsilon: float = config.rms_norm_eps
        self.register_buffer("epsilon", torch.tensor(self.rms_epsilon, device=device))
        self.layers = cast("Sequence[_Layer]", nn.ModuleList(self._join(layer) for layer in model.layers))
        angle_T1d = torch.arange(self.positions, device=device)[:, None, None] * _frequencies(model.rotary_emb)
        self.register_buffer("turn_T1d2", torch.stack([angle_T1d.cos(), angle_T1d.sin()], dim=-1))
        self.register_buffer("cache_L2CTd", None)
        self._rows = 0
        self._places: tuple[tuple[int, int], Tensor, Tensor] | None = None

    @torch.no_grad()
    def _join(self, layer: Any) -> _Layer:
        attention, gated, scale = layer.self_attn, layer.mlp, self.head_width**-0.5
        pairs = torch.arange(self.head_width).view(2, -1).t().reshape(-1)

        def interleaved(weight: Tensor, heads: int) -> Tensor:
            """Rotary pairs (i, i + d/2) side by side, so that one complex product rotates them."""
            return weight.view(heads, self.head_width, -1)[:, pairs].reshape(weight.shape)

        def by_heads(norm: Any, heads: int) -> Tensor:
            """A norm's weight, of one head or of all, for each head, (heads, d)."""
            return norm.weight.view(-1, self.head_width).expand(heads, -1)[:, pairs]

        turned_Ad = added_2D = None
        if hasattr(attention, "q_norm"):  # what scales before it is lost
            query_Hd, key_Gd = by_heads(attention.q_norm, self.heads), by_heads(attention.k_norm, self.groups)
            turned_Ad, scale = torch.cat([query_Hd * scale, key_Gd]), 1.0
            of_head = attention.q_norm.weight.numel() == self.head_width
            self.together = None if of_head else (self.heads, self.groups)
        query = interleaved(attention.q_proj.weight, self.heads) * scale
        key = interleaved(attention.k_proj.weight, self.groups)
        qkv_ED = torch.cat([query, key, attention.v_proj.weight])
        gated_2FD = torch.cat([gated.gate_proj.weight, gated.up_proj.weight])
        if self.norms_before:
            qkv_ED, gated_2FD = qkv_ED * layer.input_layernorm.weight, gated_2FD * layer.post_attention_layernorm.weight
        else:
            added_2D = torch.stack([layer.post_attention_layernorm.weight, layer.post_feedforward_layernorm.weight])
        norms = Norms(turned_Ad, added_2D)
        return _Layer(qkv_ED, attention.o_proj.weight, gated_2FD, gated.down_proj.weight, norms)

    def start(self, batch: int) -> None:
        """Start `batch` new sequences; the cache's memory is kept between calls of the same size."""
        shape = (len(self.layers), 2, batch * self.groups, self.positions, self.head_width)
        if self.cache_L2CTd is None or self.cache_L2CTd.shape != shape:
            self.cache_L2CTd = _roomy(shape, self.norm_D).zero_()  # OneToken multiplies by 0 what it masks
        self._rows = batch

    def keep(self, rows: int) -> None:
        """Continue with the first `rows` sequences only."""
        self._rows = rows

    def first_projections(self, x_VD: Tensor) -> Tensor:
        """The first layer's joined q, k and v of embedded tokens, before rotary positions: (V, E)."""
        return self.layers[0].qkv_ED(self._entering(x_VD))

    def _entering(self, x_RD: Tensor) -> Tensor:
        """What a product of a layer reads of the residual stream."""
        return normed(x_RD, self.epsilon) if self.norms_before else x_RD

    def extend(self, x_BnD: Tensor, first: int, causal: bool = False, projected_RE: Tensor | None = None) -> Tensor:
        """The normed output y_BnD of embedded tokens at `first` and after; all before them are in the cache.

        With `causal`, allowed at first=0 only, each attends to those before it and itself, else to all of them.
        `projected_RE` are the tokens' `first_projections` where they are known.
        """
        assert not causal or first == 0, "causal is for the first tokens"
        batch, tokens, width = x_BnD.shape
        x_RD = x_BnD.reshape(-1, width).clone()
        norm = partial(normed, epsilon=self.epsilon)
        assert self.cache_L2CTd is not None, "start() comes first"
        for layer, cache_2CTd in zip(self.layers, self.cache_L2CTd[:, :, : self._rows * self.groups], strict=True):
            qkv_RE = layer.qkv_ED(self._entering(x_RD)) if projected_RE is None else projected_RE
            projected_RE = None  # of the first layer alone
            qkv_BnAd = qkv_RE.view(batch, tokens, -1, self.head_width)
            mixed_RD = self._attend(qkv_BnAd, cache_2CTd, first, causal, layer.norms)
            x_RD += added(layer.out_DD(mixed_RD), layer.norms, 0, norm)
            gate_RF, up_RF = layer.gated_2FD(self._entering(x_RD)).chunk(2, dim=-1)
            x_RD += added(layer.down_DF(F.silu(gate_RF).mul_(up_RF)), layer.norms, 1, norm)
        return normed(x_RD, self.epsilon).view(batch, tokens, width)

    def _attend(self, qkv_BnAd: Tensor, cache_2CTd: Tensor, first: int, causal: bool, norms: Norms) -> Tensor:
        batch, tokens, width = *qkv_BnAd.shape[:2], self.head_width
        turned, last = self.heads + self.groups, first + tokens
        qk_BnAd = qkv_BnAd[:, :, :turned]
        if norms.turned_Ad is not None:
            norm = partial(normed, epsilon=self.epsilon)
            qk_BnAd = before_turning(qk_BnAd, norms.turned_Ad, self.together, norm)
        pair_BnAd2 = qk_BnAd.float().unflatten(-1, (-1, 2))
        turn_n1d = torch.view_as_complex(self.turn_T1d2[first:last])
        qk_BnAd = torch.view_as_real(torch.view_as_complex(pair_BnAd2) * turn_n1d).flatten(-2)
        qk_BnAd = qk_BnAd.to(qkv_BnAd.dtype)
        cache_2BGTd = cache_2CTd.view(2, batch, self.groups, self.positions, width)
        cache_2BGTd[0, :, :, first:last] = qk_BnAd[:, :, self.heads :].transpose(1, 2)
        cache_2BGTd[1, :, :, first:last] = qkv_BnAd[:, :, turned:].transpose(1, 2)
        if tokens == 1 and qkv_BnAd.device.type == "cpu":  # plain products read the cache faster than the fused kernel
            query_CMd = qk_BnAd[:, :, : self.heads].reshape(batch * self.groups, -1, width)
            share_CMT = torch.bmm(query_CMd, cache_2CTd[0, :, :last].transpose(1, 2)).softmax(-1)
            if self.heads != self.groups or not on_cpu(qkv_BnAd):
                return torch.bmm(share_CMT, cache_2CTd[1, :, :last]).view(batch, -1)
            return self._summed(share_CMT.flatten(), cache_2CTd[1], last).view(batch, -1)
        mixed_BHnd = F.scaled_dot_product_attention(
            qk_BnAd[:, :, : self.heads].transpose(1, 2),
            cache_2BGTd[0, :, :, :last],
            cache_2BGTd[1, :, :, :last],
            is_causal=causal,
            scale=1.0,
            enable_gqa=self.heads != self.groups,
        )
        return mixed_BHnd.transpose(1, 2).reshape(batch * tokens, -1)

    def _summed(self, share_X: Tensor, value_CTd: Tensor, last: int) -> Tensor:
        """Each sequence's and head's weighted sum of its first `last` values, (C, d), with weights of (C·last,).

        embedding_bag reads the values faster than products with single rows do (measured on one core: 0.4 of their
        time at 32 tokens, 0.75 at 128 and 256).
        """
        sequences, positions, width = value_CTd.shape
        if self._places is None or self._places[0] != (sequences, last):  # the same in every layer
            first_C = torch.arange(sequences, dtype=torch.int32)
            place_CT = first_C[:, None] * positions + torch.arange(last, dtype=torch.int32)
            self._places = (sequences, last), place_CT.flatten(), first_C * last
        _, place_X, begin_C = self._places
        return F.embedding_bag(place_X, value_CTd.view(-1, width), begin_C, mode="sum", per_sample_weights=share_X)


def normed(x_RD: Tensor, epsilon: Tensor) -> Tensor:
    """x / sqrt(mean(x²) + ε), in float32; the norm's weight is folded into the layer after it."""
    wide_RD = x_RD.float()
    length_R1 = torch.linalg.vector_norm(wide_RD, dim=-1, keepdim=True)
    share = 1 / x_RD.shape[-1]
    return (wide_RD * torch.addcmul(epsilon, length_R1, length_R1, value=share).rsqrt_()).to(x_RD.dtype)


def added(y_RD: Tensor, norms: Norms, which: int, norm: Callable[[Tensor], Tensor]) -> Tensor:
    """What attention (0) or the feed-forward layer (1) adds to the residual stream, from its output."""
    return y_RD if norms.added_2D is None else norm(y_RD) * norms.added_2D[which]


def before_turning(
    qk_XAd: Tensor, weight_Ad: Tensor, together: Sequence[int] | None, norm: Callable[[Tensor], Tensor]
) -> Tensor:
    """Queries and keys through their norms: of each head, or of `together` so many heads of queries and of keys."""
    if together is None:
        return norm(qk_XAd) * weight_Ad
    parts = [norm(part.flatten(-2)).view(part.shape) for part in qk_XAd.split(list(together), dim=-2)]
    return torch.cat(parts, dim=-2) * weight_Ad


def _frequencies(rotary: Any) -> Tensor:
    """The rotary frequencies, at least float32; made anew where a cast of the whole model has rounded them."""
    frequencies: Tensor = rotary.inv_freq
    if frequencies.dtype not in HALF:
        return frequencies
    return type(rotary)(rotary.config).inv_freq.to(frequencies.device)


def _roomy(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uninitialised memory of a shape, in the type and on the device of `like`.

    On a CPU numpy allocates it, which asks the system for large pages (measured: a tenth less time to read a cache).
    """
    if on_cpu(like):
        return torch.from_numpy(np.empty(tuple(shape), dtype=np.float32))
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
