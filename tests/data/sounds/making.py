"""Small sounds for the tests."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

from data.shards.scanning import build_index
from tests.data.making import write_tar


def encoded(x_TC: np.ndarray, rate: int = 16000, form: str = "WAV", subtype: str | None = None) -> bytes:
    """Samples (T,) or (T, C) as a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, x_TC, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def tone(seconds: float, rate: int, hertz: float = 440.0, loud: float = 0.5) -> np.ndarray:
    """A sine that begins at 0, float64."""
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def ramp(length: int, first: int = 0) -> np.ndarray:
    """int16 samples that tell their places."""
    return (np.arange(length) + first).astype(np.int16)


def sound_set(folder: Path, lengths: list[int], shards: int = 2, damaged: tuple[int, ...] = ()) -> Path:
    """Shards of ramps `k000`, …, at 8 kHz, with labels and captions; the path of their index."""
    samples = []
    for i, length in enumerate(lengths):
        contents = encoded(ramp(length, 1000 * (i % 20)), 8000)
        contents = contents[:20] if i in damaged else contents
        samples.append((f"k{i:03d}", {"wav": contents, "cls": str(i % 2).encode(), "txt": f"text {i}".encode()}))
    tars = [write_tar(folder / f"s-{j}.tar", samples[j::shards]) for j in range(shards)]
    build_index(tars, base=folder, kind="sounds", classes=["a", "b"]).save(folder / "s.json")
    return folder / "s.json"
