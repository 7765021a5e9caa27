"""Distances between the values of a reconstruction and of its original. Legend: B batch, C channels, H W pixels."""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.config.losses import LossConfig
from stage1_tokenizer.losses.term import Term


def log_cosh(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Mean of log cosh(x − y): half the square near 0, the absolute value less log 2 far from it."""
    distance = (x_BCHW - y_BCHW).abs()
    return (distance + F.softplus(-2 * distance) - math.log(2)).mean()


PIXEL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "huber": F.huber_loss,
    "log_cosh": log_cosh,
}
"""Distances between reconstruction and original by name, each a mean over all elements."""


class PixelTerm(Term):
    """loss.pixel, with the weight loss.pixel_weight; logged as loss/rec."""

    name = "rec"

    def __init__(self, config: LossConfig):
        super().__init__(config.pixel_weight)
        self.distance = PIXEL[config.pixel]

    def forward(self, x_hat_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """The distance."""
        return self.distance(x_hat_BCHW, x_BCHW)
