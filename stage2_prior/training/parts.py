"""What a step does with its batch, part by part: codes of samples, or packed rows of text and codes.

Shapes: B samples or rows of this rank, N codes of a sample, T tokens of a row, K kinds of tokens.
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from data.codes.batches import CodeBatch
from launch.ranks.reduce import all_sum
from launch.ranks.transfer import to_device
from launch.run.runtime import Run
from launch.strategies.base import Strategy
from stage2_prior.priors.base import Prior
from stage2_prior.priors.documents import bounds
from stage2_prior.priors.unified import NO_LOSS, UnifiedPrior, after
from stage2_prior.unified.stream import UnifiedBatch


class Parts(Protocol):
    """A rank's share of a batch, to be trained on in parts of its rows."""

    own: int
    """B."""

    def loss(self, strategy: Strategy, rows: slice) -> Tensor:
        """The loss of some rows; those of all rows of all ranks add up to the batch's, times the number of ranks."""
        ...

    def sums(self) -> tuple[Tensor, dict[str, Tensor | float]]:
        """What must be finite, and the losses by their names; after `loss` of all rows."""
        ...


class CodeParts:
    """Samples of codes, each of which counts as much as any other."""

    def __init__(self, raw: Prior, batch: CodeBatch, run: Run):
        self._code_BN = to_device(batch.idx_Bhw.flatten(1), run.device)
        self._token_B = to_device(raw.condition.of_batch(batch), run.device)
        self._sums = torch.zeros(2, device=run.device)
        self.own = len(self._code_BN)

    def loss(self, strategy: Strategy, rows: slice) -> Tensor:
        """The mean loss of these samples, times their share."""
        share = (rows.stop - rows.start) / self.own
        loss, nats = strategy.module(self._code_BN[rows], self._token_B[rows])
        self._sums += torch.stack([loss.detach(), nats]) * share
        return loss * share

    def sums(self) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The mean loss and bits per code of this rank's samples."""
        return self._sums, {"loss/total": self._sums[0], "loss/nll_bits": self._sums[1] / math.log(2)}


class PackedParts:
    """Packed rows: each kind of token has a mean over the global batch, so the ranks count them first."""

    def __init__(self, raw: UnifiedPrior, batch: UnifiedBatch, run: Run):
        self._raw, self._packed, self._run = raw, batch.packed, run
        kinds = len(raw.vocabulary.kinds)
        of_BT = after(self._packed.document_BT, self._packed.kind_BT)
        count_K = torch.bincount((of_BT - NO_LOSS).flatten(), minlength=kinds + 1)[1:]
        self._count_K = all_sum(to_device(count_K.float(), run.device))
        self._weight_K = raw.balance.weights(self._count_K)
        self._sums = torch.zeros(1 + kinds, device=run.device)
        self.own = len(self._packed.token_BT)

    def loss(self, strategy: Strategy, rows: slice) -> Tensor:
        """The sum of these rows' weighted losses, times the number of ranks, over which gradients are averaged.

        Ranks have different numbers of rows, and all must call the model equally often: a part without any is a row
        without loss.
        """
        packed, device = self._packed, self._run.device
        token_BT, document_BT, kind_BT = packed.token_BT[rows], packed.document_BT[rows], packed.kind_BT[rows]
        if not len(token_BT):
            token_BT, document_BT = packed.token_BT[:1], packed.document_BT[:1]
            kind_BT = torch.full_like(token_BT, NO_LOSS)
        bound_X = to_device(bounds(document_BT), device) if device.type == "cuda" else None
        on_device = (to_device(x_BT, device) for x_BT in (token_BT, document_BT, kind_BT))
        loss, nats_K = strategy.module(*on_device, self._weight_K, bound_X)
        self._sums += torch.cat([loss.detach()[None], nats_K.detach()])
        return loss * self._run.world_size

    def sums(self) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss, and each kind's bits per token in the global batch; takes in the running means."""
        sums = all_sum(self._sums)
        mean_K = sums[1:] / self._count_K.clamp(min=1)
        self._raw.balance.update(mean_K, self._count_K)
        named: dict[str, Tensor | float] = {"loss/total": sums[0]}
        for name, mean in zip(self._raw.vocabulary.kinds, mean_K, strict=True):
            named[f"loss/{name}_bits"] = mean / math.log(2)
        return sums, named


def parts_of(raw: Prior, batch: Any, run: Run) -> Parts:
    """This rank's share of a batch."""
    return PackedParts(raw, batch, run) if isinstance(raw, UnifiedPrior) else CodeParts(raw, batch, run)


def tokens_of(batch: CodeBatch | UnifiedBatch) -> int:
    """The tokens (or codes) of this rank's share of a batch, padding included."""
    return batch.packed.token_BT.numel() if isinstance(batch, UnifiedBatch) else batch.idx_Bhw.numel()
