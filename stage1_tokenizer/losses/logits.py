"""The perceptual term on a frozen classifier's logits (loss.logits), which replaces LPIPS in MaskBit and TiTok.

Legend: B batch, C channels, H W pixels, V classes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.config.semantic import LogitsConfig
from stage1_tokenizer.losses.frozen_networks import Entrance, loaded, statistics_of, torchvision_classifier
from stage1_tokenizer.losses.term import Term


class LogitsTerm(Term):
    """Mean squared difference between logits of x̂ and of x. (MaskBit, Weber et al. 2024; TiTok, Yu et al. 2024)

    Pictures are resized bilinearly with antialiasing, and not clamped. The gradient goes to x̂ alone.
    """

    name = "logits"

    def __init__(self, config: LogitsConfig):
        """Raises UserError if the network or its weights can't be found."""
        super().__init__(config.weight)
        folder = None
        if "/" in config.network:
            self.network, folder = loaded("loss.logits.network", config.network, "AutoModelForImageClassification")
        else:
            self.network = torchvision_classifier(config.network, config.weights)
        self.enter = Entrance(
            statistics_of(config.normalise, folder, "loss.logits.normalise"), config.size, antialias=True
        )

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, V) of pictures in [-1, 1] of 1 or 3 channels."""
        output = cast(Any, self.network)(self.enter(x_BCHW))
        return output if isinstance(output, Tensor) else output.logits

    def forward(self, x_hat_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """The value, over pictures and classes."""
        with torch.no_grad():
            given_BV = self.logits(x_BCHW)
        return F.mse_loss(self.logits(x_hat_BCHW), given_BV)

    def at(self, x_hat_BCHW: Tensor, x_BCHW: Tensor, micro_batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Value and weighted gradient, from `micro_batch` pictures at a time."""
        gradient, total = torch.zeros_like(x_hat_BCHW), x_hat_BCHW.new_zeros(())
        whole = range(len(x_hat_BCHW))
        for part in torch.tensor(whole).split(micro_batch or len(whole)):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            value, pull = super().at(x_hat_BCHW[rows], x_BCHW[rows])
            share = len(part) / len(whole)
            total, gradient[rows] = total + share * value, share * pull
        return total, gradient
