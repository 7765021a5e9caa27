"""A stock Llama's (Qwen3's, OLMo 2's) norms, attention and feed-forward layers in fewer kernels, for GPUs.

Installing swaps the classes of these modules in place; weights, names and configuration do not change. On CPUs the
stock ones stay. Each computes what the stock one does: norms as one kernel, rotary positions in four and without copies
of halves, and under autocast one cast of what several linear layers read. transformers looks each of them up by name
for other kernels; here it is plain torch.

Shapes: B batch, T tokens, D width, H heads (of queries, or of keys), d their width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention, Olmo2MLP, Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3MLP, Qwen3RMSNorm

from stage2_prior.priors.documents import Documents


def install(module: nn.Module, device: torch.device) -> None:
    """Install what is fast on a device in all stock Llamas (and their like) of a module; idempotent."""
    if device.type != "cuda":
        return
    swapped: dict[type[nn.Module], type[nn.Module]] = {LlamaAttention: Attention}
    swapped |= dict.fromkeys((Qwen3Attention, Olmo2Attention), NormedAttention)
    swapped |= dict.fromkeys((LlamaRMSNorm, Qwen3RMSNorm, Olmo2RMSNorm), Norm)
    swapped |= dict.fromkeys((LlamaMLP, Qwen3MLP, Olmo2MLP), Mlp)
    for part in module.modules():
        if type(part) in swapped:
            part.__class__ = swapped[type(part)]


class Norm(LlamaRMSNorm):
    """x / sqrt(mean(x²) + ε) · w, at least in float32 inside."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The normed tensor, in the input's type."""
        weight_D = self.weight.to(hidden_states.dtype)  # one type for both, else torch takes the norm apart
        return F.rms_norm(hidden_states, weight_D.shape, weight_D, self.variance_epsilon)


class Mlp(LlamaMLP):
    """down(SiLU(gate(x)) · up(x))."""

    def forward(self, x: Tensor) -> Tensor:
        """The output, (B, T, D)."""
        x_BTD = as_multiplied(x)
        y_BTD: Tensor = self.down_proj(self.act_fn(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return y_BTD


class Attention(LlamaAttention):
    """Causal attention; with a mask where it is true; by `ends`, in whole stretches of tokens; or by `documents`."""

    def forward(  # type: ignore[override]  # of its arguments, those that our loop gives
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        ends: Sequence[int] | None = None,
        documents: Documents | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """The output, (B, T, D). With `ends`, tokens up to each of them attend to all up to it.

        `past_key_values` (stage2_prior.priors.llama.KeyValues) is for one token at a time, which attends to all in it.
        """
        assert position_embeddings is not None
        x_BTD, shape = as_multiplied(hidden_states), (*hidden_states.shape[:2], -1, self.head_dim)
        q_BHTd, k_BHTd, v_BHTd = (x_BTE.view(shape).transpose(1, 2) for x_BTE in self.projected(x_BTD))
        cos_B1Td, sin_B1Td = (each_BTd[:, None] for each_BTd in position_embeddings)
        q_BHTd, k_BHTd = turned(q_BHTd, cos_B1Td, sin_B1Td), turned(k_BHTd, cos_B1Td, sin_B1Td)
        how = {
            "dropout_p": self.attention_dropout if self.training else 0.0,
            "scale": self.scaling,
            "enable_gqa": self.num_key_value_groups > 1,
        }
        if past_key_values is not None:
            k_BHTd, v_BHTd = past_key_values.update(k_BHTd, v_BHTd, self.layer_idx)
            y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, **how)
        elif ends is not None:
            y_BHTd = by_prefixes(q_BHTd, k_BHTd, v_BHTd, ends, **how)
        elif documents is not None:
            y_BHTd = documents.attended(q_BHTd, k_BHTd, v_BHTd, **how)
        else:
            causal = attention_mask is None
            y_BHTd = F.scaled_dot_product_attention(
                q_BHTd, k_BHTd, v_BHTd, attn_mask=attention_mask, is_causal=causal, **how
            )
        y_BTD: Tensor = self.o_proj(y_BHTd.transpose(1, 2).flatten(2))
        return y_BTD, None

    def projected(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads."""
        return self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)


class NormedAttention(Attention):
    """The same with norms of queries and keys, each head's (Qwen3) or all heads' together (OLMo 2)."""

    def projected(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads."""
        q_BTE, k_BTE, v_BTE = super().projected(x_BTD)
        return _normed(q_BTE, self.q_norm), _normed(k_BTE, self.k_norm), v_BTE


def _normed(x_BTE: Tensor, norm: Any) -> Tensor:
    """Features through a norm of all of them, or of each head."""
    y_BTHd: Tensor = norm(x_BTE.unflatten(-1, (-1, len(norm.weight))))
    return y_BTHd.flatten(2)


def by_prefixes(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, ends: Sequence[int], **how: Any) -> Tensor:
    """Attention where tokens up to each of `ends` attend to all up to it: one product without a mask for each stretch.

    Each prefix is cut from the next longer one, so that gradients are summed in pieces that grow with the stretches.
    """
    found, first = [], [0, *ends[:-1]]
    for start, end in zip(reversed(first), reversed(ends), strict=True):
        k_BHTd, v_BHTd = k_BHTd[:, :, :end], v_BHTd[:, :, :end]
        found.append(F.scaled_dot_product_attention(q_BHTd[:, :, start:end], k_BHTd, v_BHTd, **how))
    return torch.cat(found[::-1], dim=2)


def as_multiplied(x: Tensor) -> Tensor:
    """A tensor in the type in which autocast multiplies, cast once for all linear layers that read it."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def turned(x_BHTd: Tensor, cos_B1Td: Tensor, sin_B1Td: Tensor) -> Tensor:
    """Pairs (i, i + d/2) of features turned by their angles, in the type of the angles, rounded to the input's.

    (x₁, x₂) become (x₁ cos - x₂ sin, x₂ cos + x₁ sin).
    """
    if torch.compiler.is_compiling():  # fuses it, and older versions don't split graphs with own functions for DDP
        x1, x2 = x_BHTd.chunk(2, dim=-1)
        return (x_BHTd * cos_B1Td + torch.cat([-x2, x1], dim=-1) * sin_B1Td).to(x_BHTd.dtype)
    y_BHTd: Tensor = _Turned.apply(x_BHTd, cos_B1Td, sin_B1Td)
    return y_BHTd


class _Turned(torch.autograd.Function):
    """Its gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x_BHTd: Tensor, cos_B1Td: Tensor, sin_B1Td: Tensor) -> Tensor:
        ctx.save_for_backward(cos_B1Td, sin_B1Td)
        return _turned(x_BHTd, cos_B1Td, sin_B1Td, 1)

    @staticmethod
    def backward(ctx: Any, above_BHTd: Tensor) -> tuple[Tensor, None, None]:
        cos_B1Td, sin_B1Td = ctx.saved_tensors
        return _turned(above_BHTd, cos_B1Td, sin_B1Td, -1), None, None


def _turned(x_BHTd: Tensor, cos_B1Td: Tensor, sin_B1Td: Tensor, sign: int) -> Tensor:
    (x1, x2), (sin1, sin2) = x_BHTd.chunk(2, dim=-1), sin_B1Td.chunk(2, dim=-1)
    y_BHTd = x_BHTd * cos_B1Td
    y1, y2 = y_BHTd.chunk(2, dim=-1)
    y1.addcmul_(x2, sin1, value=-sign)
    y2.addcmul_(x1, sin2, value=sign)
    return y_BHTd.to(x_BHTd.dtype)
