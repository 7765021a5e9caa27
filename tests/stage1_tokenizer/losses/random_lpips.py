"""LPIPS of VGG's shape with random weights, scaled so that every layer's features are of one size."""

from __future__ import annotations

import torch

from stage1_tokenizer.losses.lpips import LPIPS, _convolutions


def random_lpips(narrow: int = 8) -> LPIPS:
    """With `narrow` times fewer channels than VGG16."""
    generator = torch.Generator().manual_seed(0)
    kernels, heads, inputs = [], [], 3
    for outputs, width, _, _ in _convolutions("vgg"):
        made = outputs // narrow
        scale = (2 / (inputs * width * width)) ** 0.5
        weight = torch.randn(made, inputs, width, width, generator=generator) * scale
        kernels.append((weight, torch.randn(made, generator=generator) * 0.1))
        inputs = made
    for channels in (64, 128, 256, 512, 512):
        heads.append(torch.rand(channels // narrow, generator=generator) / 10)
    return LPIPS("vgg", kernels, heads).eval()
