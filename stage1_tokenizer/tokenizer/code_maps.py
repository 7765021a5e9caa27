"""Pictures of a tokenizer's codes: a heat map of a grid, and swatches of a code's neighbours.

Legend: K codes, D code dimension, h w latent grid.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stage1_tokenizer.tokenizer.model import Tokenizer

MOST_COMPARED = 1 << 24
"""Codes whose vectors may be compared with that of one."""
SWATCH = 4
"""Side of a swatch's grid, which repeats one code."""


def heat_map(idx_hw: Tensor, codebook_size: int, side: int = 512) -> Any:
    """A PIL picture of a code grid, at most about `side` pixels wide; colours show the position in the codebook."""
    from matplotlib import colormaps
    from PIL import Image

    share = idx_hw.cpu().numpy() / max(codebook_size - 1, 1)
    pixels_HWC = (colormaps["turbo"](share)[..., :3] * 255).astype(np.uint8)
    scale = max(side // max(idx_hw.shape), 1)
    small = Image.fromarray(pixels_HWC)
    return small.resize((small.width * scale, small.height * scale), Image.Resampling.NEAREST)


def has_neighbours(tokenizer: Tokenizer) -> bool:
    """Whether codes lie on a grid and come from a single codebook, so that each has a vector, and are not too many."""
    kind = tokenizer.config.quantizer.kind
    if tokenizer.codebook_size > MOST_COMPARED:
        return False
    return tokenizer.codebooks == 1 and kind not in ("gaussian", "multiscale") and not tokenizer.config.latent_tokens


@torch.no_grad()
def neighbours(tokenizer: Tokenizer, code: int, count: int = 8) -> list[tuple[int, float]]:
    """The codes with the nearest vectors, the code itself first, with their distances.

    Raises ValueError for a code outside the codebook, and if codes have no vectors of their own (`has_neighbours`).
    """
    size = tokenizer.codebook_size
    if not has_neighbours(tokenizer):
        raise ValueError(
            "this tokenizer's codes have no vectors of their own, or are too many: no neighbours are shown"
        )
    if not 0 <= code < size:
        raise ValueError(f"code={code} must be between 0 and {size - 1}: choose another")
    device = next(tokenizer.parameters()).device
    vector_DK = tokenizer.quantizer.embed(torch.arange(size, device=device).view(1, 1, size))[0, :, 0].float()
    distance_K = (vector_DK - vector_DK[:, code : code + 1]).norm(dim=0)
    distance_K[code] = -1.0
    order = distance_K.argsort()[: min(count, size)]
    return [(int(other), max(float(distance_K[other]), 0.0)) for other in order]


def swatches(tokenizer: Tokenizer, codes: list[int]) -> list[Any]:
    """Decoded grids of a single code, as PIL pictures, one for each code."""
    device = next(tokenizer.parameters()).device
    idx_Bhw = torch.tensor(codes, device=device)[:, None, None].expand(-1, SWATCH, SWATCH)
    return tokenizer.to_pil(tokenizer.decode(idx_Bhw))
