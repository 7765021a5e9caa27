"""A stock Llama's layers over a static key-value cache: what draws codes from every kind of prior built on one.

The loop runs on the stock weights, not through the modules: q, k, v and the two gated layers are joined, so that a step
is few and large products, and the norms' weights and the attention's scale are multiplied into the layers beside them.

Shapes: B sequences, n tokens each that are heard at once, T tokens in the cache, D width, H heads, G key-value heads,
A = H + 2G, d head width, E = A·d, F inner width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stage2_prior.products import Product, on_cpu, roomy


@dataclass
class _Layer:
    """One decoder layer's weights, joined for few products."""

    qkv_ED: Product
    out_DD: Product
    gated_2FD: Product
    down_DF: Product


class CachedBody:
    """What a stock LlamaModel makes of embedded tokens, some at a time; all that are heard at once hear each other.

    Takes the weights as they are when it is made (in their dtype and on their device). Equal to the module's own
    output, before its last norm's weight, up to rounding.
    """

    def __init__(self, model: Any, positions: int):
        """`model`, for sequences of so many tokens."""
        config = model.config
        self.heads, self.groups, self.head_width = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.positions = positions
        self.norm_D = model.norm.weight.detach()
        device = self.norm_D.device
        self.epsilon = torch.tensor(config.rms_norm_eps, device=device)
        self.layers = [self._join(layer) for layer in model.layers]
        angle_T1d = torch.arange(positions, device=device)[:, None, None] * model.rotary_emb.inv_freq
        self.turn_T1d = torch.polar(torch.ones_like(angle_T1d), angle_T1d)
        self._cache_L2CTd: Tensor | None = None
        self._shape: tuple[int, ...] = ()
        self._rows = 0
        self._places: tuple[tuple[int, int], Tensor, Tensor] | None = None

    @torch.no_grad()
    def _join(self, layer: Any) -> _Layer:
        attention, gated = layer.self_attn, layer.mlp
        pairs = torch.arange(self.head_width).view(2, -1).t().reshape(-1)

        def interleaved(weight: Tensor, heads: int) -> Tensor:
            """Rotary pairs (i, i + d/2) side by side, so that one complex product turns them."""
            return weight.view(heads, self.head_width, -1)[:, pairs].reshape(weight.shape)

        query = interleaved(attention.q_proj.weight, self.heads) * self.head_width**-0.5
        key = interleaved(attention.k_proj.weight, self.groups)
        return _Layer(
            Product(torch.cat([query, key, attention.v_proj.weight]) * layer.input_layernorm.weight),
            Product(attention.o_proj.weight),
            Product(torch.cat([gated.gate_proj.weight, gated.up_proj.weight]) * layer.post_attention_layernorm.weight),
            Product(gated.down_proj.weight),
        )

    def start(self, batch: int) -> None:
        """Get ready for `batch` new sequences; the cache is kept between calls of the same size."""
        shape = (len(self.layers), 2, batch * self.groups, self.positions, self.head_width)
        if self._shape != shape:
            self._shape, self._cache_L2CTd = shape, roomy(shape, self.norm_D)
        self._rows = batch

    def keep(self, rows: int) -> None:
        """Go on with the first `rows` sequences alone."""
        self._rows = rows

    def first_projections(self, x_VD: Tensor) -> Tensor:
        """What the first layer's joined q, k and v make of embedded tokens, before positions turn them: (V, E)."""
        return self.layers[0].qkv_ED(self._normed(x_VD))

    def hear(self, x_BnD: Tensor, first: int, causal: bool = False, projected_RE: Tensor | None = None) -> Tensor:
        """The normed output y_BnD at embedded tokens that stand at `first` and after; all before them were heard.

        With `causal`, which is for the first ones, each hears those before it and itself only. `projected_RE` are the
        tokens' `first_projections` where they are known.
        """
        assert not causal or first == 0, "causal is for the first tokens"
        assert self._cache_L2CTd is not None, "start() comes first"
        batch, tokens, width = x_BnD.shape
        x_RD = x_BnD.reshape(-1, width).clone()
        for layer, cache_2CTd in zip(self.layers, self._cache_L2CTd[:, :, : self._rows * self.groups], strict=True):
            qkv_RE = layer.qkv_ED(self._normed(x_RD)) if projected_RE is None else projected_RE
            projected_RE = None  # of the first layer alone
            qkv_BnAd = qkv_RE.view(batch, tokens, -1, self.head_width)
            x_RD += layer.out_DD(self._attend(qkv_BnAd, cache_2CTd, first, causal))
            gate_RF, up_RF = layer.gated_2FD(self._normed(x_RD)).chunk(2, dim=-1)
            x_RD += layer.down_DF(F.silu(gate_RF).mul_(up_RF))
        return self._normed(x_RD).view(batch, tokens, width)

    def _normed(self, x_RD: Tensor) -> Tensor:
        """x / sqrt(mean(x²) + ε), in float32; the norm's weight is in the layer after it."""
        wide_RD = x_RD.float()
        length_R1 = torch.linalg.vector_norm(wide_RD, dim=-1, keepdim=True)
        share = 1 / x_RD.shape[-1]
        return (wide_RD * torch.addcmul(self.epsilon, length_R1, length_R1, value=share).rsqrt_()).to(x_RD.dtype)

    def _attend(self, qkv_BnAd: Tensor, cache_2CTd: Tensor, first: int, causal: bool) -> Tensor:
        batch, tokens, width = *qkv_BnAd.shape[:2], self.head_width
        turned, last = self.heads + self.groups, first + tokens
        pair_BnAd2 = qkv_BnAd[:, :, :turned].float().unflatten(-1, (-1, 2))
        qk_BnAd = torch.view_as_real(torch.view_as_complex(pair_BnAd2) * self.turn_T1d[first:last]).flatten(-2)
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
        heard_BHnd = F.scaled_dot_product_attention(
            qk_BnAd[:, :, : self.heads].transpose(1, 2),
            cache_2BGTd[0, :, :, :last],
            cache_2BGTd[1, :, :, :last],
            is_causal=causal,
            scale=1.0,
            enable_gqa=self.heads != self.groups,
        )
        return heard_BHnd.transpose(1, 2).reshape(batch * tokens, -1)

    def _summed(self, share_X: Tensor, value_CTd: Tensor, last: int) -> Tensor:
        """Each sequence's and head's sum of its first `last` values, weighed: heard_Cd, from shares of (C·last,).

        As a sum of rows of a table, which reads the values faster than products with single rows do (measured on one
        core: 0.4 of their time at 32 tokens, 0.75 at 128 and 256).
        """
        sequences, positions, width = value_CTd.shape
        if self._places is None or self._places[0] != (sequences, last):  # the same in every layer
            first_C = torch.arange(sequences, dtype=torch.int32)
            place_CT = first_C[:, None] * positions + torch.arange(last, dtype=torch.int32)
            self._places = (sequences, last), place_CT.flatten(), first_C * last
        _, place_X, begin_C = self._places
        return F.embedding_bag(place_X, value_CTd.view(-1, width), begin_C, mode="sum", per_sample_weights=share_X)
