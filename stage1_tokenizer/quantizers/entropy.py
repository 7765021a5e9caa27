"""Entropy terms, in nats: low entropy for each position, high entropy over the batch.

Legend: N positions, L bits of a code, K codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from launch.ranks.reduce import differentiable_sum, world
from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.layers.precision import product
from stage1_tokenizer.quantizers.base import Counter


def entropy(p_K: Tensor) -> Tensor:
    """−Σ p log p over the last axis; 0 log 0 is 0."""
    return -(p_K * p_K.clamp_min(1e-30).log()).sum(-1)


def outer(p_NL: Tensor) -> Tensor:
    """Probabilities (N, 2^L) of all codes of L independent bits; the first bit is the most significant."""
    joint_NK = p_NL.new_ones(len(p_NL), 1)
    for bit_N in p_NL.unbind(1):
        joint_NK = (joint_NK.unsqueeze(2) * torch.stack([1 - bit_N, bit_N], 1).unsqueeze(1)).flatten(1)
    return joint_NK


def mean_code(p_NL: Tensor) -> Tensor:
    """Mean over N of `outer`, (2^L,), without an N × 2^L tensor: the outer products of both halves, then one matmul."""
    half = p_NL.shape[1] // 2
    return product(outer(p_NL[:, :half]).T, outer(p_NL[:, half:])).flatten() / len(p_NL)


def over_ranks(mean_K: Tensor) -> Tensor:
    """The mean over ranks, with gradient; in evaluation, where ranks go their own ways, this rank's own."""
    return differentiable_sum(mean_K) / world()[1] if torch.is_grad_enabled() else mean_K


def binary_entropies(logit_NL: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """E[H(q(z))] and H[E[q(z)]] for codes of independent bits. (Yu et al. 2023, MAGVIT-v2, eq. 5)

    The first is exact: the entropies of independent bits, softplus(x) − x σ(x) each, add up. The second is exact for up
    to `group` bits; longer codes are split into groups of that many bits, treated as independent (Zhao et al. 2024,
    BSQ, section 4, has groups of one bit), so that a codebook of any size costs 2^group.
    """
    each = (F.softplus(logit_NL) - logit_NL * torch.sigmoid(logit_NL)).sum(1).mean()
    parts = torch.sigmoid(logit_NL).split(group, dim=1)
    return each, torch.stack([entropy(over_ranks(mean_code(part))) for part in parts]).sum()


def soft_entropies(logit_NK: Tensor) -> tuple[Tensor, Tensor]:
    """E[H(q(z))] and H[E[q(z)]] for codes chosen with probability softmax(logits)."""
    p_NK = logit_NK.softmax(1)
    each = (torch.logsumexp(logit_NK, 1) - (p_NK * logit_NK).sum(1)).mean()
    return each, entropy(over_ranks(p_NK.mean(0)))


def annealed_weight(config: QuantizerConfig, steps: int) -> float:
    """From entropy_boost · entropy_weight linearly to entropy_weight, over `anneal` steps."""
    left = max(0.0, 1 - steps / config.anneal) if config.anneal else 0.0
    return config.entropy_weight * (1 + (config.entropy_boost - 1) * left)


def weighted(config: QuantizerConfig, entropies: tuple[Tensor, Tensor], counter: Counter, training: bool) -> Tensor:
    """The entropy loss: weight · (E[H] − γ H[E]), with the weight of the training step that has begun."""
    loss = entropies[0] - config.entropy_diversity * entropies[1]
    if not training:
        return annealed_weight(config, counter.steps) * loss
    return counter.annealed.to(loss.dtype) * loss
