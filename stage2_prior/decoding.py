"""Drawing codes from an autoregressive prior, fast: one static key-value cache, both guidance halves in one batch.

The loop runs on the stock Llama's own weights (q, k, v and the two gated layers joined, so that a step is few and large
products), not through its modules. Shapes: B sequences, N codes each, T = N tokens, K codes, D width, H heads, G
key-value heads, d head width, F inner width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How a code is drawn from the logits."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely code."""
    top_k: int = 0
    """Draw from the k most likely codes only; 0 for all."""
    top_p: float = 1.0
    """Draw from the fewest codes that together have this probability; 1 for all."""
    guidance: float = 1.0
    """Scale s of classifier-free guidance, logits = null + s (class - null); 1 is none."""
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the scale goes from 1 to `guidance` over the positions (or steps); constant is `guidance` everywhere."""
    steps: int = 12
    """Of a masked prior: steps in which all codes are filled in."""
    order: Literal["confidence", "halton"] = "confidence"
    """Of a masked prior: which codes a step fills in, the most certain ones or those far apart."""
    choice_temperature: float = 4.5
    """Of a masked prior with order=confidence: how much chance is in the choice at first."""

    def __post_init__(self) -> None:
        rules = (
            ("temperature", self.temperature >= 0, "be 0 (most likely code) or more: 1 samples as trained"),
            ("top_k", self.top_k >= 0, "be 0 (all codes) or more"),
            ("top_p", 0 < self.top_p <= 1, "lie in (0, 1]: 1 keeps all codes"),
            ("steps", self.steps >= 1, "be 1 or more"),
            ("choice_temperature", self.choice_temperature >= 0, "be 0 (no chance) or more"),
            ("guidance", self.guidance >= 0, "be 0 (no class) or more: 1 is no guidance, 3 is usual"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)} must {rule}")

    def scale(self, position: int, positions: int) -> float:
        """The guidance scale at a position in [0, positions)."""
        done = (position + 1) / positions
        if self.guidance_schedule == "constant":
            return self.guidance
        if self.guidance_schedule == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return 1 + (self.guidance - 1) * done


def guided(
    logits: Callable[[Tensor, Tensor], Tensor], token_B: Tensor, code_BN: Tensor, null: int, scale: float | None
) -> Tensor:
    """logits(token_B, code_BN), guided: both halves in one batch; scale None is no guidance."""
    if scale is None:
        return logits(token_B, code_BN)
    both = logits(torch.cat([token_B, torch.full_like(token_B, null)]), code_BN.repeat(2, 1))
    class_half, null_half = both.chunk(2)
    return torch.lerp(null_half, class_half, scale)


def draw_codes(logits_BK: Tensor, uniform_B: Tensor, drawing: Drawing) -> Tensor:
    """One code per row, idx_B int64, by inverting the distribution function at uniform_B in [0, 1).

    One number per draw, made beforehand, keeps a picture's randomness its own, whatever is drawn beside it.
    """
    if drawing.temperature == 0:
        return logits_BK.argmax(-1)
    logits_BK = logits_BK / drawing.temperature
    kept_BK: Tensor | None = None
    if 0 < drawing.top_k < logits_BK.shape[-1]:
        logits_BK, kept_BK = logits_BK.topk(drawing.top_k, dim=-1)
    elif drawing.top_p < 1:
        logits_BK, kept_BK = logits_BK.sort(dim=-1, descending=True)
    share_BK = logits_BK.softmax(-1)
    total_BK = share_BK.cumsum(-1)
    last_B1 = total_BK[:, -1:]
    if drawing.top_p < 1:  # sorted here: keep codes until the ones before reach top_p
        kept_B = (total_BK - share_BK < drawing.top_p * last_B1).sum(-1, keepdim=True)
        last_B1 = total_BK.gather(1, kept_B - 1)
    place_B1 = torch.searchsorted(total_BK, uniform_B[:, None] * last_B1, right=True)
    place_B1 = place_B1.clamp_(max=logits_BK.shape[-1] - 1)
    return (place_B1 if kept_BK is None else kept_BK.gather(1, place_B1))[:, 0]


@dataclass
class _Layer:
    """One decoder layer's weights, joined for few products."""

    norm_D: Tensor
    qkv_ED: Tensor
    out_DD: Tensor
    norm2_D: Tensor
    gated_2FD: Tensor
    down_DF: Tensor


class CachedLlama:
    """A stock Llama's next-token logits, one token per call, over a static key-value cache.

    Takes the weights as they are when it is made (in their dtype and on their device). Positions count from 0 after
    `start`. Equal to the module's own logits up to rounding.
    """

    def __init__(self, lm: Any, codebook_size: int, positions: int):
        config = lm.config
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.head_width = config.head_dim
        self.epsilon = config.rms_norm_eps
        self.positions = positions
        self.embedding_VD = lm.model.embed_tokens.weight.detach()
        self.layers = [self._join(layer) for layer in lm.model.layers]
        self.norm_D = lm.model.norm.weight.detach()
        self.head_KD = lm.lm_head.weight.detach()[:codebook_size]
        angle_T1d = torch.arange(positions, device=self.norm_D.device)[:, None, None] * lm.model.rotary_emb.inv_freq
        self.turn_T1d = torch.polar(torch.ones_like(angle_T1d), angle_T1d)
        self._cache_L2BGTd: Tensor | None = None

    def _join(self, layer: Any) -> _Layer:
        attention, gated = layer.self_attn, layer.mlp
        pairs = torch.arange(self.head_width).view(2, -1).t().reshape(-1)

        def interleaved(weight: Tensor, heads: int) -> Tensor:
            """Rotary pairs (i, i + d/2) side by side, so that one complex product turns them."""
            return weight.view(heads, self.head_width, -1)[:, pairs].reshape(weight.shape)

        query, key = interleaved(attention.q_proj.weight, self.heads), interleaved(attention.k_proj.weight, self.groups)
        return _Layer(
            layer.input_layernorm.weight.detach(),
            torch.cat([query, key, attention.v_proj.weight]).detach(),
            attention.o_proj.weight.detach(),
            layer.post_attention_layernorm.weight.detach(),
            torch.cat([gated.gate_proj.weight, gated.up_proj.weight]).detach(),
            gated.down_proj.weight.detach(),
        )

    def start(self, batch: int) -> None:
        """Get ready for `batch` new sequences: the cache is kept between calls of the same size."""
        shape = (len(self.layers), 2, batch, self.groups, self.positions, self.head_width)
        if self._cache_L2BGTd is None or self._cache_L2BGTd.shape != shape:
            self._cache_L2BGTd = torch.empty(shape, dtype=self.norm_D.dtype, device=self.norm_D.device)

    def step(self, token_B: Tensor, position: int) -> Tensor:
        """Logits_BK of the code after `token_B`, which stands at `position`; all before it were given already."""
        assert self._cache_L2BGTd is not None, "start() comes first"
        x_BD = F.embedding(token_B, self.embedding_VD)
        width = (x_BD.shape[-1],)
        for layer, cache_2BGTd in zip(self.layers, self._cache_L2BGTd, strict=True):
            normed_BD = F.rms_norm(x_BD, width, layer.norm_D, self.epsilon)
            heard_BD = self._attend(F.linear(normed_BD, layer.qkv_ED), cache_2BGTd, position)
            x_BD = torch.addmm(x_BD, heard_BD, layer.out_DD.t())
            normed_BD = F.rms_norm(x_BD, width, layer.norm2_D, self.epsilon)
            gate_BF, up_BF = F.linear(normed_BD, layer.gated_2FD).chunk(2, dim=-1)
            x_BD = torch.addmm(x_BD, F.silu(gate_BF).mul_(up_BF), layer.down_DF.t())
        return F.linear(F.rms_norm(x_BD, width, self.norm_D, self.epsilon), self.head_KD)

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
    guided = drawing.guidance != 1
    input_B = torch.cat([token_B, torch.full_like(token_B, null)]) if guided else token_B
    llama.start(len(input_B))
    code_BN = torch.empty(batch, positions, dtype=torch.int64, device=token_B.device)
    for position in range(positions):
        logits_BK = llama.step(input_B, position).float()
        if guided:
            class_BK, null_BK = logits_BK.chunk(2)
            logits_BK = torch.lerp(null_BK, class_BK, drawing.scale(position, positions))
        code_B = draw_codes(logits_BK, uniform_BN[:, position], drawing)
        if given_BN is not None:
            code_B = torch.where(given_BN[:, position] >= 0, given_BN[:, position], code_B)
        code_BN[:, position] = code_B
        input_B = code_B.repeat(2) if guided else code_B
    return code_BN
