"""The losses of codes: cross-entropy with label smoothing and z-loss, of logits, or of a head's inputs in chunks.

With many codes the logits of a batch take more memory than all else: 32 pictures of 256 codes out of 262,144 have
2.1·10⁹, several times over. In chunks of rows those of one chunk exist at a time, and again in the backward pass.

Shapes: B batch, N codes of a picture, K codes, D width, G heads (codebooks), R rows of each, C rows of a chunk,
V = G·K rows of the heads' weights or more.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stage1_tokenizer.layers.precision import at_least_float32

MOST_LOGITS = 1 << 27
"""Logits that may exist at once: more are made in chunks. In float32 these are 0.5 GiB."""


def code_losses(logits_BNK: Tensor, code_BN: Tensor, smoothing: float, z_weight: float) -> tuple[Tensor, Tensor]:
    """The training loss of each code, loss_BN, and its -ln p in nats, nats_BN without gradients; float32.

    loss = (1 - s)·(-ln p(code)) + s·mean over all codes of -ln p + z·ln²Z, with label smoothing s (Szegedy et al. 2016,
    section 7) and z_weight z (Chowdhery et al. 2022, section 5), ln Z the logits' log-sum-exp.
    """
    log_z_BN = logits_BNK.logsumexp(-1)
    nats_BN = log_z_BN - logits_BNK.gather(-1, code_BN[..., None])[..., 0]
    loss_BN = nats_BN
    if smoothing > 0:
        loss_BN = (1 - smoothing) * nats_BN + smoothing * (log_z_BN - logits_BNK.mean(-1))
    if z_weight > 0:
        loss_BN = loss_BN + z_weight * log_z_BN.square()
    return loss_BN, nats_BN.detach()


def figures(logits_BNK: Tensor, code_BN: Tensor) -> tuple[Tensor, Tensor]:
    """-ln p of each code in nats, and 1 where it is the likeliest one, 0 elsewhere; nats_BN, right_BN float32."""
    return code_losses(logits_BNK, code_BN, 0, 0)[1], (logits_BNK.argmax(-1) == code_BN).float()


def too_many(logits: int) -> bool:
    """Whether that many logits may not exist at once."""
    return logits > MOST_LOGITS


class Heads:
    """G linear heads of K codes each, whose rows follow each other in one weight, and the rows that enter them."""

    def __init__(self, y_GRD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, codes: int):
        self.y_GRD, self.weight_VD, self.bias_V, self.codes = y_GRD, weight_VD, bias_V, codes

    def chunks(self) -> list[tuple[int, slice]]:
        """The heads and rows whose logits exist at once."""
        heads, rows = self.y_GRD.shape[:2]
        step = max(1, MOST_LOGITS // self.codes)
        return [(head, slice(first, first + step)) for head in range(heads) for first in range(0, rows, step)]

    def outputs(self, head: int) -> slice:
        """Where a head's codes are in the weight."""
        return slice(head * self.codes, (head + 1) * self.codes)

    def logits(self, head: int, rows: slice) -> Tensor:
        """Logits_CK, at least float32."""
        own = self.outputs(head)
        bias_K = None if self.bias_V is None else self.bias_V[own]
        return at_least_float32(F.linear(self.y_GRD[head, rows], self.weight_VD[own], bias_K))

    def gathered(self, of: Any, code_GR: Tensor) -> list[Tensor]:
        """What `of(logits_CK, code_C)` gives for all chunks, each of its tensors as one of (G, R)."""
        parts = [of(self.logits(head, rows), code_GR[head, rows]) for head, rows in self.chunks()]
        return [torch.cat(each).view(code_GR.shape) for each in zip(*parts, strict=True)]


def figures_in_chunks(heads: Heads, code_GR: Tensor) -> tuple[Tensor, Tensor]:
    """`figures` of the heads' logits, without gradients: nats_GR, right_GR."""
    with torch.no_grad():
        nats_GR, right_GR = heads.gathered(figures, code_GR)
    return nats_GR, right_GR


def code_losses_in_chunks(heads: Heads, code_GR: Tensor, smoothing: float, z_weight: float) -> tuple[Tensor, Tensor]:
    """`code_losses` of the heads' logits, which are never all there: loss_GR, nats_GR."""
    loss_GR, nats_GR = _Chunked.apply(
        heads.y_GRD, heads.weight_VD, heads.bias_V, code_GR, heads.codes, smoothing, z_weight
    )
    return loss_GR, nats_GR


class _Chunked(torch.autograd.Function):
    """The backward pass makes each chunk's logits anew, and their gradient from the formula of the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        y_GRD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        code_GR: Tensor,
        codes: int,
        smoothing: float,
        z_weight: float,
    ) -> tuple[Tensor, Tensor]:
        def losses(logits_CK: Tensor, code_C: Tensor) -> tuple[Tensor, ...]:
            return *code_losses(logits_CK, code_C, smoothing, z_weight), logits_CK.logsumexp(-1)

        loss_GR, nats_GR, log_z_GR = Heads(y_GRD, weight_VD, bias_V, codes).gathered(losses, code_GR)
        ctx.save_for_backward(y_GRD, weight_VD, bias_V, code_GR, log_z_GR)
        ctx.settings = codes, smoothing, z_weight
        ctx.mark_non_differentiable(nats_GR)
        return loss_GR, nats_GR

    @staticmethod
    def backward(ctx: Any, above_GR: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        y_GRD, weight_VD, bias_V, code_GR, log_z_GR = ctx.saved_tensors
        codes, smoothing, z_weight = ctx.settings
        heads, sums = Heads(y_GRD, weight_VD, bias_V, codes), at_least_float32(weight_VD[:0]).dtype
        down_GRD = torch.empty_like(y_GRD)
        down_VD = torch.zeros_like(weight_VD, dtype=sums)
        down_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=sums)
        for head, rows in heads.chunks():
            above_C1, log_z_C1 = above_GR[head, rows, None], log_z_GR[head, rows, None]
            # d loss / d logit_k = p_k (1 + 2 z ln Z) - s / K - (1 - s) [k is the code]
            down_CK = (heads.logits(head, rows) - log_z_C1).exp_() * (above_C1 * (1 + 2 * z_weight * log_z_C1))
            if smoothing > 0:
                down_CK -= above_C1 * (smoothing / codes)
            down_CK.scatter_add_(1, code_GR[head, rows, None], above_C1 * (smoothing - 1))
            own, low_CK = heads.outputs(head), down_CK.to(weight_VD.dtype)
            down_GRD[head, rows] = low_CK @ weight_VD[own]
            down_VD[own] += low_CK.t() @ y_GRD[head, rows]
            if down_V is not None:
                down_V[own] += down_CK.sum(0)
        bias = None if down_V is None or bias_V is None else down_V.to(bias_V.dtype)
        return down_GRD, down_VD.to(weight_VD.dtype), bias, None, None, None, None
