"""How well a decoder bears wrong codes: the Fréchet distance of reconstructions from perturbed codes.

The idea is RobusTok's pFID (Qiu et al. 2025); its share and number of near codes are not published, so this definition
is our own. It is part of the figure's name and of the conditions under which results may be compared.

Legend: B batch, X pictures, N codes of a picture.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.pictures.transforms import to_uint8
from launch.ranks.joined import Ranks
from launch.ranks.transfer import to_device
from stage1_tokenizer.measuring.distances import SetStatistics, SetSums, frechet
from stage1_tokenizer.measuring.features import FeatureNetwork
from stage1_tokenizer.measuring.results import defined
from stage1_tokenizer.quantizers.nearby import drawn_ranks
from stage1_tokenizer.tokenizer.model import Tokenizer

WHAT = (
    "Frechet distance of reconstructions from perturbed codes: each code is replaced, with probability `share`, by one "
    "of the `nearest` codes nearest to it, itself among them, all equally likely; drawn by the hash of the picture's "
    "key; nearest by the vectors that the quantizer's search compares, or by the fewest changed levels or bits"
)


class PerturbedSums:
    """Features of reconstructions from perturbed codes, of this rank's pictures."""

    def __init__(self, tokenizer: Tokenizer, network: FeatureNetwork, device: torch.device, share: float, nearest: int):
        self._tokenizer, self._network = tokenizer, network
        self.share, self.nearest = share, nearest
        self._sums = SetSums(network, device, kept=1)

    @property
    def name(self) -> str:
        """The figure's name, with its definition's numbers."""
        return f"{self._network.names['frechet']}_perturbed_{self.share:g}_of_{self.nearest}"

    @property
    def about(self) -> dict[str, dict[str, str]]:
        """What the figure is, with a hash of that, for the result's conditions."""
        return defined({self.name: f"{WHAT}; share {self.share:g}, nearest {self.nearest}"})

    @torch.no_grad()
    def add(self, idx_Bhw: Tensor, keys: Sequence[str]) -> None:
        """Add pictures by their codes and keys; only the first len(keys) count, the others fill the batch."""
        rank_X = [ranks_of_key(key, idx_Bhw[0].numel(), self.share, self.nearest) for key in keys]
        rank_BN = torch.from_numpy(np.stack([rank_X[row % len(keys)] for row in range(len(idx_Bhw))]))
        rank_Bhw = to_device(rank_BN.view(idx_Bhw.shape), idx_Bhw.device)
        moved_Bhw = self._tokenizer.quantizer.nearby(idx_Bhw, rank_Bhw, self.nearest)
        features = self._network(to_uint8(self._tokenizer.decode(moved_Bhw)))
        self._sums.add({kind: h_BD[: len(keys)] for kind, h_BD in features.items()}, keys)

    def result(self, reference: SetStatistics, ranks: Ranks) -> dict[str, float]:
        """The figure, computed on rank 0; every rank must call it. Empty for fewer than 2 pictures."""
        measured, value = self._sums.result(ranks.sum, ranks.gather), None
        enough = min(count for count in (measured.count, reference.count) if count is not None) > 1
        if ranks.rank == 0 and enough:
            value = frechet(measured.gaussians["pool"], reference.gaussians["pool"])
        value = ranks.gather(value)[0]
        return {} if value is None else {self.name: value}


def ranks_of_key(key: str, codes: int, share: float, nearest: int) -> np.ndarray:
    """The ranks of what replaces a picture's codes, int64 (N,): a function of its key."""
    words = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=16).digest(), "<u4")
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([int(word) for word in words])))
    return drawn_ranks(random.random((1, 2, codes)), share, nearest)[0]
