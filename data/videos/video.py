"""What a video file is, whatever reads it. Shapes: N frames of the file, H W pixels, C channels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from data.pictures.config import FrameConfig


class VideoFile(ABC):
    """One video; a context manager. Frames are numbered from 0 in the order in which they are shown."""

    hdr: str = ""
    """Transfer characteristics, pq or hlg, of videos with a high dynamic range."""

    @property
    @abstractmethod
    def frames(self) -> int:
        """Frames N that can be shown, 1 or more."""

    @property
    @abstractmethod
    def times(self) -> np.ndarray:
        """Seconds from the first frame on, float64 (N + 1,): when each frame is shown, and when the last one ends."""

    @abstractmethod
    def read(self, numbers: Sequence[int], config: FrameConfig) -> Iterator[np.ndarray]:
        """The frames of these ascending numbers, each uint8 (H, W, C), upright; one is in memory at a time.

        DamagedSampleError where one can't be decoded.
        """

    def check_end(self) -> None:
        """DamagedSampleError where the file ends before the time that its header states."""
        return

    @abstractmethod
    def close(self) -> None:
        """Free what the file holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
