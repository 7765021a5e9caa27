"""Terms of sounds at the reconstruction: waveform, mel spectra, STFT. Legend: B batch, C channels, T samples."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stage1_tokenizer.losses.pixel import PIXEL
from stage1_tokenizer.losses.spectral import (
    MEL_WINDOWS,
    STFT_WINDOWS,
    Definition,
    default_mels,
    mel_distance,
    stft_distance,
)
from stage1_tokenizer.losses.term import Term

SMALLEST, LARGEST = 16, 65_536
"""Windows that a term may have, in samples."""


class WaveformTerm(Term):
    """Mean distance of samples: l1 (the usual one), l2, huber, log_cosh."""

    name = "waveform"

    def __init__(self, weight: float = 1.0, distance: str = "l1"):
        super().__init__(weight)
        if distance not in PIXEL:
            raise ValueError(f"distance={distance} is unknown: choose one of {', '.join(PIXEL)}")
        self.distance = PIXEL[distance]

    def forward(self, x_hat_BCT: Tensor, x_BCT: Tensor) -> Tensor:
        """The distance."""
        return self.distance(x_hat_BCT, x_BCT)


class MelTerm(Term):
    """Multi-scale mel distance by DAC's or EnCodec's definition (`mel_distance`), mean over the batch.

    `windows` in samples and `mels` (their number of bands) are the definition's by default.
    """

    name = "mel"

    def __init__(
        self,
        sample_rate: int,
        weight: float = 1.0,
        definition: Definition = "dac",
        windows: Sequence[int] | None = None,
        mels: Sequence[int] | int | None = None,
    ):
        super().__init__(weight)
        _known(definition)
        self.sample_rate, self.definition = sample_rate, definition
        self.windows = _checked(windows, MEL_WINDOWS[definition])
        if isinstance(mels, int):
            mels = [mels] * len(self.windows)
        self.mels = default_mels(definition, self.windows) if mels is None else list(mels)
        if len(self.mels) != len(self.windows) or min(self.mels) < 1:
            raise ValueError(f"mels={self.mels} must be one number of bands, or one for each of {self.windows}")

    def forward(self, x_hat_BCT: Tensor, x_BCT: Tensor) -> Tensor:
        """The distance."""
        return mel_distance(x_hat_BCT, x_BCT, self.sample_rate, self.definition, self.windows, self.mels).mean()


class StftTerm(Term):
    """Multi-scale STFT distance by DAC's or EnCodec's definition (`stft_distance`), mean over the batch."""

    name = "stft"

    def __init__(self, weight: float = 1.0, definition: Definition = "dac", windows: Sequence[int] | None = None):
        super().__init__(weight)
        _known(definition)
        self.definition = definition
        self.windows = _checked(windows, STFT_WINDOWS[definition])

    def forward(self, x_hat_BCT: Tensor, x_BCT: Tensor) -> Tensor:
        """The distance."""
        return stft_distance(x_hat_BCT, x_BCT, self.definition, self.windows).mean()


def _known(definition: str) -> None:
    if definition not in MEL_WINDOWS:
        raise ValueError(f"definition={definition} is unknown: choose one of {', '.join(MEL_WINDOWS)}")


def _checked(windows: Sequence[int] | None, default: Sequence[int]) -> list[int]:
    chosen = list(default if windows is None else windows)
    good = all(isinstance(window, int) and SMALLEST <= window <= LARGEST and window % 4 == 0 for window in chosen)
    if not chosen or not good:
        raise ValueError(f"windows={chosen} must be multiples of 4 from {SMALLEST} to {LARGEST} samples")
    return chosen
