"""The perceptual term: LPIPS of all or some of a batch. Legend: B batch, C channels, H W pixels."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from stage1_tokenizer.config.losses import PerceptualConfig
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.losses.term import Term


class PerceptualTerm(Term):
    """Mean LPIPS over `config.fraction` of the batch."""

    name = "perceptual"

    def __init__(self, config: PerceptualConfig, lpips: LPIPS):
        super().__init__(config.weight)
        self.fraction = config.fraction
        self.lpips = lpips

    def at(self, x_hat_BCHW: Tensor, x_BCHW: Tensor, micro_batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Value and weighted gradient, from `micro_batch` pictures at a time."""
        chosen_B = evenly_spread(len(x_hat_BCHW), self.fraction, x_hat_BCHW.device)
        gradient, total = torch.zeros_like(x_hat_BCHW), x_hat_BCHW.new_zeros(())
        for part_B in chosen_B.split(micro_batch or len(chosen_B)):
            part_BCHW = x_hat_BCHW.detach()[part_B].requires_grad_()
            share = self.lpips(part_BCHW, x_BCHW[part_B]).sum() / len(chosen_B)
            gradient[part_B] = self.weight * torch.autograd.grad(share, part_BCHW)[0]
            total = total + share.detach()
        return total, gradient


@functools.cache  # a copy to a GPU would wait for it in every step
def evenly_spread(count: int, fraction: float, device: torch.device) -> Tensor:
    """Numbers of an evenly spread share of `count` samples, at least one; int64, ascending."""
    chosen = [number for number in range(count) if int((number + 1) * fraction) > int(number * fraction)] or [0]
    return torch.tensor(chosen, device=device)
