"""DiffAugment: pictures that a discriminator sees, shifted, recoloured and cut, with gradients to the pictures.

(Zhao et al. 2020, in the form of StyleGAN-T.) What happens to a picture follows from seven uniform numbers
of its own. Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.config.discriminators import AugmentConfig

NUMBERS = 7
"""Uniform numbers of a picture: vertical and horizontal shift; brightness, saturation, contrast; place of the cut."""


def augmented(x_BCHW: Tensor, uniform_B7: Tensor, config: AugmentConfig) -> Tensor:
    """The pictures as `config` changes them; `uniform_B7` in [0, 1)."""
    given = uniform_B7.to(x_BCHW.dtype).unbind(1)
    if config.translate:
        x_BCHW = shifted(x_BCHW, given[0], given[1], config.translate)
    if config.colour:
        x_BCHW = recoloured(x_BCHW, *given[2:5])
    if config.cutout:
        x_BCHW = x_BCHW * uncut(x_BCHW, given[5], given[6], config.cutout)
    return x_BCHW


def shifted(x_BCHW: Tensor, row_B: Tensor, column_B: Tensor, share: float) -> Tensor:
    """Moved by whole pixels, up to round(share · side) in each direction; zeros come in."""
    padded_BHWC = F.pad(x_BCHW, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    places = []
    for uniform_B, side in ((row_B, x_BCHW.shape[2]), (column_B, x_BCHW.shape[3])):
        most = round(share * side)
        shift_B = (uniform_B * (2 * most + 1)).floor().long() - most
        at = torch.arange(1, side + 1, device=x_BCHW.device)
        places.append((at + shift_B[:, None]).clamp(0, side + 1))
    number_B = torch.arange(len(x_BCHW), device=x_BCHW.device)
    return padded_BHWC[number_B[:, None, None], places[0][:, :, None], places[1][:, None, :]].permute(0, 3, 1, 2)


def recoloured(x_BCHW: Tensor, brightness_B: Tensor, saturation_B: Tensor, contrast_B: Tensor) -> Tensor:
    """Brightness by -0.5 to 0.5, then distance from grey 0 to 2 times, then from the mean 0.5 to 1.5 times."""
    shape = (-1, 1, 1, 1)
    x_BCHW = x_BCHW + (brightness_B - 0.5).view(shape)
    grey = x_BCHW.mean(1, keepdim=True)
    x_BCHW = (x_BCHW - grey) * (2 * saturation_B).view(shape) + grey
    mean = x_BCHW.mean((1, 2, 3), keepdim=True)
    return (x_BCHW - mean) * (0.5 + contrast_B).view(shape) + mean


def uncut(x_BCHW: Tensor, row_B: Tensor, column_B: Tensor, share: float) -> Tensor:
    """1, and 0 in a square of round(share · side) around a place anywhere in the picture, (B, 1, H, W)."""
    inside = []
    for uniform_B, side in ((row_B, x_BCHW.shape[2]), (column_B, x_BCHW.shape[3])):
        size = round(share * side)
        first_B = (uniform_B * (side + 1 - size % 2)).floor().long() - size // 2
        at = torch.arange(side, device=x_BCHW.device)
        inside.append((at >= first_B[:, None]) & (at < first_B[:, None] + size))
    return 1 - (inside[0][:, :, None] & inside[1][:, None, :]).to(x_BCHW.dtype)[:, None]
