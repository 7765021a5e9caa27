"""Weights of a tiny vision transformer in DINO's layout, drawn at random."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

DEPTH, PATCH, GRID, WIDTH = 4, 8, 4, 128


def vit_weights(depth: int = DEPTH, width: int = WIDTH) -> dict[str, Tensor]:
    """4 blocks of two heads on 4×4 patches of 8 pixels; with the last norm and the head that are in such files too."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, GRID**2 + 1, width),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    linear = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in range(depth):
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{name}.{kind}": (width,) for kind in ("weight", "bias")}
        for name, (outputs, inputs) in linear.items():
            shapes[f"blocks.{block}.{name}.weight"] = (outputs * width, inputs * width)
            shapes[f"blocks.{block}.{name}.bias"] = (outputs * width,)
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def vit_file(folder: Path) -> Path:
    """The same as a file."""
    file = folder / "dino_tiny.pth"
    torch.save(vit_weights(), file)
    return file
