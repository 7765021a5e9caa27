"""Usage of a codebook. Shapes: K codes."""

from __future__ import annotations

import numpy as np


def summary(histogram_K: np.ndarray) -> dict[str, float]:
    """Share of the codes that occur, and the perplexity of their distribution (K if it is uniform)."""
    share_K = histogram_K / max(1, histogram_K.sum())
    present = share_K[share_K > 0]
    entropy = float(-(present * np.log(present)).sum())
    return {"used": float((histogram_K > 0).mean()), "perplexity": float(np.exp(entropy))}
