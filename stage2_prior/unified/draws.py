"""What is drawn for a sample of a step: its direction, and whether its text is dropped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stage2_prior.unified.segments import Direction, Interleaved, Segment, directed, without_text

SALT = 0x746F6B65
"""Keeps these draws apart from others of the same seed and step."""


@dataclass(frozen=True)
class Draws:
    """The draws of one sample."""

    direction: Direction
    swapped: bool
    """With `both`: whether the codes come first."""
    dropped: bool
    """Whether the codes are shown without their text, where they come after it: what guidance compares with."""

    def of(self, segments: Sequence[Segment]) -> list[Segment]:
        """The segments in their order, with what bears loss."""
        text_first = self.direction == "text_to_media" or (self.direction == "both" and not self.swapped)
        if isinstance(segments, Interleaved):
            return segments
        if self.dropped and text_first and (codes := without_text(segments)):
            return codes
        return directed(segments, self.direction, swap=self.swapped)


def drawn(seed: int, step: int, samples: int, weights: Mapping[Direction, float], dropout: float) -> list[Draws]:
    """The draws of each sample of the global batch: a function of seed and step, whatever the ranks."""
    word = np.random.SeedSequence([seed, step, SALT])
    uniform_B3 = np.random.Generator(np.random.Philox(word)).random((samples, 3))
    names = list(weights)
    edges = np.cumsum([weights[name] for name in names])
    chosen_B = np.searchsorted(edges / edges[-1], uniform_B3[:, 0], side="right")
    return [
        Draws(names[min(which, len(names) - 1)], swapped < 0.5, dropped < dropout)
        for which, swapped, dropped in zip(chosen_B.tolist(), *uniform_B3[:, 1:].T.tolist(), strict=True)
    ]
