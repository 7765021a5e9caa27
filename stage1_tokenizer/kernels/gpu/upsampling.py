"""Nearest-neighbour upsampling in the input's type: CUDA's autocast widens it to float32, which changes no value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.layers.convolution import Upsample


class NarrowUpsample(Upsample):
    """Upsample without float32 copies under autocast."""

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        with torch.autocast(h_BCHW.device.type, enabled=False):
            h_BCHW = F.interpolate(h_BCHW, scale_factor=2.0, mode="nearest")
        return self.conv(h_BCHW)
