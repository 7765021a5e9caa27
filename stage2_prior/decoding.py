"""Drawing codes from an autoregressive prior: one static key-value cache, both guidance halves in one batch.

The loop runs on the stock Llama's own weights, not through its modules: q, k, v and the two gated layers are joined, so
that a step is few and large products, and the norms' weights are multiplied into the layers that follow.

Shapes: B sequences, N codes each, T = N tokens, K codes, D width, H heads, G
key-value heads, d head width, F inner width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stage2_prior.drawing import Drawing, draw_codes
from stage2_prior.products import Product


@dataclass
class _Layer:
    """One decoder layer's weights, joined for few products."""

    qkv_ED: Product
    out_DD: Product
    gated_2FD: Product
    down_DF: Product


class CachedLlama:
    """A stock Llama's next-token logits, one token per call, over a static key-value cache.

    Takes the weights as they are when it is made (in their dtype and on their device). Positions count from 0 after
    `start`. Equal to the module's own logits up to rounding.
    """

    def __init__(self, lm: Any, codebook_size: int, positions: int):
        config = lm.config
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.head_width = config.head_dim
        self.positions = positions
        self.embedding_VD = lm.model.embed_tokens.weight.detach()
        device = self.embedding_VD.device
        self.epsilon = torch.tensor(config.rms_norm_eps, device=device)
        self.layers = [self._join(layer) for layer in lm.model.layers]
        self.head_KD = Product(lm.lm_head.weight[:codebook_size] * lm.model.norm.weight)
        angle_T1d = torch.arange(positions, device=device)[:, None, None] * lm.model.rotary_emb.inv_freq
        self.turn_T1d = torch.polar(torch.ones_like(angle_T1d), angle_T1d)
        self._cache_L2BGTd: Tensor | None = None
        self._rows = 0

    @torch.no_grad()
    def _join(self, layer: Any) -> _Layer:
        attention, gated = layer.self_attn, layer.mlp
        pairs = torch.arange(self.head_width).view(2, -1).t().reshape(-1)

        def interleaved(weight: Tensor, heads: int) -> Tensor:
            """Rotary pairs (i, i + d/2) side by side, so that one complex product turns them."""
            return weight.view(heads, self.head_width, -1)[:, pairs].reshape(weight.shape)

        query, key = interleaved(attention.q_proj.weight, self.heads), interleaved(attention.k_proj.weight, self.groups)
        return _Layer(
            Product(torch.cat([query, key, attention.v_proj.weight]) * layer.input_layernorm.weight),
            Product(attention.o_proj.weight),
            Product(torch.cat([gated.gate_proj.weight, gated.up_proj.weight]) * layer.post_attention_layernorm.weight),
            Product(gated.down_proj.weight),
        )

    def start(self, batch: int) -> None:
        """Get ready for `batch` new sequences: cache and layouts are kept between calls of the same size."""
        shape = (len(self.layers), 2, batch, self.groups, self.positions, self.head_width)
        if self._cache_L2BGTd is None or self._cache_L2BGTd.shape != shape:
            weight_VD = self.embedding_VD
            self._cache_L2BGTd = torch.empty(shape, dtype=weight_VD.dtype, device=weight_VD.device)
        self._rows = batch
        for layer in self.layers:
            for product in (layer.qkv_ED, layer.out_DD, layer.gated_2FD, layer.down_DF):
                product.prepare(batch)
        self.head_KD.prepare(batch)

    def keep(self, rows: int) -> None:
        """Go on with the first `rows` sequences alone."""
        self._rows = rows

    def step(self, token_B: Tensor, position: int) -> Tensor:
        """Logits_BK of the code after `token_B`, which stands at `position`; all before it were given already."""
        assert self._cache_L2BGTd is not None, "start() comes first"
        x_BD = F.embedding(token_B, self.embedding_VD)
        for layer, cache_2BGTd in zip(self.layers, self._cache_L2BGTd[:, :, : self._rows], strict=True):
            x_BD += layer.out_DD(self._attend(layer.qkv_ED(self._normed(x_BD)), cache_2BGTd, position))
            gate_BF, up_BF = layer.gated_2FD(self._normed(x_BD)).chunk(2, dim=-1)
            x_BD += layer.down_DF(F.silu(gate_BF).mul_(up_BF))
        return self.head_KD(self._normed(x_BD))

    def _normed(self, x_BD: Tensor) -> Tensor:
        """x / sqrt(mean(x²) + ε), in float32; the norm's weight is in the layer after it."""
        wide_BD = x_BD.float()
        length_B1 = torch.linalg.vector_norm(wide_BD, dim=-1, keepdim=True)
        share = 1 / x_BD.shape[-1]
        return (wide_BD * torch.addcmul(self.epsilon, length_B1, length_B1, value=share).rsqrt_()).to(x_BD.dtype)

    def _attend(self, qkv_BE: Tensor, cache_2BGTd: Tensor, position: int) -> Tensor:
        batch, turned = qkv_BE.shape[0], self.heads + self.groups
        qkv_BAd = qkv_BE.view(batch, turned + self.groups, self.head_width)
        pair_BAd2 = qkv_BAd[:, :turned].float().unflatten(-1, (-1, 2))
        qk_BAd = torch.view_as_real(torch.view_as_complex(pair_BAd2) * self.turn_T1d[position]).flatten(-2)
        qk_BAd = qk_BAd.to(qkv_BE.dtype)
        cache_2BGTd[0, :, :, position] = qk_BAd[:, self.heads :]
        cache_2BGTd[1, :, :, position] = qkv_BAd[:, turned:]
        key_BGTd, value_BGTd = cache_2BGTd[..., : position + 1, :]
        heard_BH1d = F.scaled_dot_product_attention(
            qk_BAd[:, : self.heads, None], key_BGTd, value_BGTd, enable_gqa=self.heads != self.groups
        )
        return heard_BH1d.reshape(batch, -1)


@torch.inference_mode()
def decode(
    llama: CachedLlama,
    token_B: Tensor,
    uniform_BN: Tensor,
    drawing: Drawing,
    *,
    null: int,
    given_BN: Tensor | None = None,
) -> Tensor:
    """Draw whole grids, code_BN int64, for the class tokens; uniform_BN in [0, 1) is all their randomness.

    `null` is the token that guidance compares with. `given_BN` fixes the codes where it isn't negative (the rest is
    drawn after what stands before it).
    """
    batch, positions = uniform_BN.shape
    guided_positions = drawing.guided(positions)
    input_B = torch.cat([token_B, torch.full_like(token_B, null)]) if guided_positions else token_B
    llama.start(len(input_B))
    code_BN = torch.empty(batch, positions, dtype=torch.int64, device=token_B.device)
    for position in range(positions):
        guided = position < guided_positions
        if not guided and len(input_B) > batch:
            input_B = input_B[:batch]
            llama.keep(batch)
        logits_BK = llama.step(input_B, position).float()
        if guided:
            class_BK, null_BK = logits_BK.chunk(2)
            logits_BK = torch.lerp(null_BK, class_BK, drawing.scale(position, positions))
        code_B = draw_codes(logits_BK, uniform_BN[:, position], drawing, drawing.heat(position, positions))
        if given_BN is not None:
            code_B = torch.where(given_BN[:, position] >= 0, given_BN[:, position], code_B)
        code_BN[:, position] = code_B
        input_B = code_B.repeat(2) if guided else code_B
    return code_BN
