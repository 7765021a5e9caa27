"""Sums over the pictures of an evaluation as sets, next to the scores of single pictures.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from data.pictures.config import TransformConfig
from launch.ranks.joined import Ranks
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.measuring.distances import KEPT, SetStatistics, SetSums, figures
from stage1_tokenizer.measuring.features import FeatureNetwork, Vgg16
from stage1_tokenizer.measuring.picture_sets import PictureHash
from stage1_tokenizer.measuring.references import MeasuredSet, describe

Taps = tuple[list[Tensor], list[Tensor]]
"""LPIPS.features of the originals and of the reconstructions."""


class EvaluationSums:
    """The originals' hash and, with a network, features of reconstructions and, if requested, of originals."""

    def __init__(
        self, network: FeatureNetwork | None, device: torch.device, *, kept: int = KEPT, originals: bool = True
    ):
        self.hash = PictureHash(device)
        self._network = network
        self._measured = SetSums(network, device, kept) if network is not None else None
        self._originals = SetSums(network, device, kept) if network is not None and originals else None

    def add(
        self,
        pixels_BCHW: Tensor,
        recon_BCHW: Tensor,
        keys: Sequence[str],
        lpips: LPIPS | None = None,
        taps: Taps | None = None,
    ) -> None:
        """Add originals and their reconstructions, uint8. `taps` of `lpips` are reused if it is the feature network.

        Only the first len(keys) pictures count; the others fill the batch.
        """
        count = len(keys)
        self.hash.add(pixels_BCHW[:count])
        if self._network is None:
            return
        known = taps if isinstance(self._network, Vgg16) and self._network.lpips is lpips else None
        for number, (sums, shown_BCHW) in enumerate(((self._originals, pixels_BCHW), (self._measured, recon_BCHW))):
            if sums is not None:
                features = Vgg16.of_taps(known[number]) if known else self._network(shown_BCHW)
                sums.add({kind: h_BD[:count] for kind, h_BD in features.items()}, keys)

    def originals_set(self, source: str, digest: str, transform: TransformConfig, ranks: Ranks) -> MeasuredSet:
        """The originals over all ranks, as the reference; every rank must call it."""
        assert self._originals is not None
        statistics = self._originals.result(ranks.sum, ranks.gather)
        return MeasuredSet(statistics, describe(source, digest, statistics, transform))

    def reconstructions(self, ranks: Ranks) -> SetStatistics:
        """The reconstructions over all ranks; every rank must call it."""
        assert self._measured is not None
        return self._measured.result(ranks.sum, ranks.gather)

    def distances(self, ranks: Ranks) -> dict[str, float]:
        """The reconstructions' distances from the originals, computed on rank 0; every rank must call it."""
        assert self._network is not None
        assert self._originals is not None
        originals, measured = self._originals.result(ranks.sum, ranks.gather), self.reconstructions(ranks)
        return ranks.gather(figures(self._network, measured, originals) if ranks.rank == 0 else None)[0]
