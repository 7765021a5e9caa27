"""What an evaluation of a tokenizer gathers of its pictures as sets, beside each picture's own scores.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stage1_tokenizer.measuring.distances import KEPT, METHOD, SetStatistics, SetSums, figures
from stage1_tokenizer.measuring.features import FeatureNetwork, Vgg16
from stage1_tokenizer.measuring.picture_sets import PictureHash
from stage1_tokenizer.measuring.references import MeasuredSet, describe

if TYPE_CHECKING:
    from data.pictures.config import TransformConfig
    from launch.ranks.joined import Ranks
    from stage1_tokenizer.losses.lpips import LPIPS

Taps = tuple[list[Tensor], list[Tensor]]
"""LPIPS.features of the originals and of the reconstructions."""


class Streams:
    """The originals' hash and, with a network, features of reconstructions and, where asked for, of originals."""

    def __init__(
        self, network: FeatureNetwork | None, device: torch.device, *, kept: int = KEPT, originals: bool = True
    ):
        self.hash = PictureHash(device)
        self._network, self._kept = network, kept
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
        """Add originals and their reconstructions, uint8; `taps` of `lpips` are used where that is the network.

        Only as many count as there are keys; those after them fill the batch.
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
        """The originals over all ranks, as the reference; every rank must ask."""
        assert self._originals is not None
        statistics = self._originals.result(ranks.sum, ranks.gather)
        return MeasuredSet(statistics, describe(source, digest, statistics, transform))

    def figures(self, reference: SetStatistics, ranks: Ranks) -> dict[str, float]:
        """The reconstructions' distances from the reference, computed on rank 0; every rank must ask."""
        assert self._network is not None
        assert self._measured is not None
        measured = self._measured.result(ranks.sum, ranks.gather)
        return ranks.gather(figures(self._network, measured, reference) if ranks.rank == 0 else None)[0]

    def figures_of_both(self, ranks: Ranks) -> dict[str, float]:
        """The reconstructions' distances from the originals; every rank must ask."""
        assert self._originals is not None
        return self.figures(self._originals.result(ranks.sum, ranks.gather), ranks)

    def about(self) -> dict[str, Any]:
        """The network and the method, for the result."""
        assert self._network is not None
        return {**self._network.about, **METHOD, "kept": self._kept}
