"""LPIPS (being written): the signatures."""

from __future__ import annotations

from torch import Tensor, nn


class LPIPS(nn.Module):
    """LPIPS distance (Zhang et al. 2018); no parameter is trained, none is in state_dict()."""

    def forward(self, x_BCHW: Tensor, reference_BCHW: Tensor) -> Tensor:
        """Distance of each picture, (B,) float32; pictures in [-1, 1], 1 or 3 channels. Gradient to x only."""
        raise NotImplementedError


def load_lpips(net: str = "vgg", weights: str | None = None) -> LPIPS:
    """LPIPS with its true weights; UserError where none can be found."""
    raise NotImplementedError
