"""Small real sounds for the tests of stage two: shards of tones, and an untrained tokenizer for them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from data.shards.writer import Sample, ShardWriter
from data.sounds.config import SoundConfig

CODES, BOOKS, RATE, LENGTH = 24, 3, 8000, 1024
CLASSES, TEXTS = ("low", "high"), ("a low tone", "a high tone")
TRANSFORM = SoundConfig(sample_rate=RATE, length=LENGTH)


def tone(label: int, random: np.random.Generator, length: int = LENGTH) -> np.ndarray:
    """A noisy tone of a class, float32 (T,)."""
    hertz = (300, 1800)[label] * random.uniform(0.9, 1.1)
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(length) / RATE) + random.normal(0, 0.02, length)).astype("f4")


def flac(x_T: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, x_T, RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def write_sounds(folder: Path, *, shards: int, each: int, seed: int = 0) -> str:
    """Shards of tones of two classes, with captions; every third is shorter than a clip. Their index."""
    random = np.random.default_rng(seed)
    tars = ShardWriter(folder)
    tars.begin({"seed": seed}, ["index.json"])

    def samples(shard: int) -> Iterator[Sample]:
        for i in range(each):
            label = i % 2
            x_T = tone(label, random, LENGTH if i % 3 else LENGTH // 2)
            yield (
                f"{shard:02d}_{i:03d}",
                {"flac": flac(x_T), "cls": str(label).encode(), "txt": TEXTS[label].encode()},
            )

    records = [tars.write(f"sounds-{shard:06d}.tar", samples(shard)) for shard in range(shards)]
    index = tars.index(records, name="tones", classes=list(CLASSES), kind="sounds")
    tars.finish({"index.json": index})
    return str(folder / "index.json")


def write_tokenizer(folder: Path) -> str:
    """An untrained tokenizer for them: 64 places of 3 codes out of 24."""
    from stage1_tokenizer import Tokenizer
    from stage1_tokenizer.config.model import ModelConfig, QuantizerConfig

    torch.manual_seed(0)
    quantizer = QuantizerConfig(kind="residual", codebook_size=CODES, code_dim=4, codebooks=BOOKS)
    model = ModelConfig(
        spatial_dims=1,
        in_channels=1,
        channels=32,
        channel_multipliers=[1, 1, 1, 1, 1],
        res_blocks=1,
        attention=False,
        z_channels=8,
        quantizer=quantizer,
    )
    tokenizer = Tokenizer(model, TRANSFORM)  # type: ignore[arg-type]
    with torch.no_grad():
        for module in tokenizer.quantizer.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.normal_()
    tokenizer.save_pretrained(folder)
    return str(folder)
