# Made from stage1_tokenizer.quantizers.usage of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

import torch
from torch import Tensor


def count_codes(idx_Bhw: Tensor, codebook_size: int, codebooks: int = 1) -> Tensor:
    """How often each code occurs in each codebook, count_GK int64. With several codebooks, axis 1 of the codes is G.

    Unlike torch.bincount, it doesn't wait for a GPU to say which codes occur.
    """
    idx_GN = (idx_Bhw.movedim(1, 0) if codebooks > 1 else idx_Bhw).reshape(codebooks, -1)
    shifted_GN = idx_GN
    if codebooks > 1:
        shifted_GN = idx_GN + torch.arange(codebooks, device=idx_GN.device)[:, None] * codebook_size
    count = torch.zeros(codebooks * codebook_size, dtype=torch.int64, device=idx_Bhw.device)
    return count.scatter_add_(0, shifted_GN.flatten(), torch.ones_like(shifted_GN.flatten())).view(codebooks, -1)
