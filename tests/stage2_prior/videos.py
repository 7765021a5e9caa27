"""Small real clips for the tests of stage two: shards of moving squares, and an untrained tokenizer for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data.shards.writer import Sample, ShardWriter
from data.videos.config import VideoConfig
from data.videos.shown import film

CODES, FRAMES, SIZE, RATE = 24, 5, 16, 10.0
GRID = (3, 4, 4)
CLASSES, WORDS = ("small", "large"), ("left", "right")
TRANSFORM = VideoConfig(size=SIZE, frames=FRAMES, channels=1, frame_rate=RATE)
ATTRIBUTES = {"size": {"words": list(CLASSES), "seen": "frames"}, "way": {"words": list(WORDS), "seen": "motion"}}


def clip(label: int, way: int, random: np.random.Generator, frames: int = FRAMES) -> np.ndarray:
    """A square of a class, a small one upright and a large one a bar, that moves 2 pixels a frame, (1, T, H, W)."""
    height, width = (4, 4) if label == 0 else (10, 3)
    x_CTHW = np.zeros((1, frames, SIZE, SIZE), np.uint8)
    top = int(random.integers(0, SIZE - height + 1))
    for number in range(frames):
        left = min(2 * number, SIZE - width)
        left = SIZE - width - left if way == 0 else left
        x_CTHW[0, number, top : top + height, left : left + width] = random.integers(180, 256)
    return x_CTHW


def caption(label: int, way: int) -> str:
    return f"a {CLASSES[label]} one goes {WORDS[way]}"


def write_videos(folder: Path, *, shards: int, each: int, seed: int = 0) -> str:
    """Shards of clips of two classes and ways, with captions that can be checked. Their index."""
    random = np.random.default_rng(seed)
    tars = ShardWriter(folder)
    tars.begin({"seed": seed}, ["index.json"])

    def samples(shard: int) -> Iterator[Sample]:
        for i in range(each):
            label, way = i % 2, i // 2 % 2
            members = {"webp": film(clip(label, way, random), RATE), "cls": str(label).encode()}
            yield f"{shard:02d}_{i:03d}", {**members, "txt": caption(label, way).encode()}

    records = [tars.write(f"videos-{shard:06d}.tar", samples(shard)) for shard in range(shards)]
    index = tars.index(records, name="squares", classes=list(CLASSES), kind="videos", meta={"attributes": ATTRIBUTES})
    tars.finish({"index.json": index})
    return str(folder / "index.json")


def write_tokenizer(folder: Path, causal: bool = True) -> str:
    """An untrained tokenizer for them, of which the first frame has codes of its own."""
    from stage1_tokenizer import Tokenizer
    from stage1_tokenizer.config.model import ModelConfig, QuantizerConfig
    from stage1_tokenizer.config.video_networks import VideoNetConfig

    torch.manual_seed(0)
    model = ModelConfig(
        spatial_dims=3,
        in_channels=1,
        channels=32,
        channel_multipliers=[1, 1, 1],
        res_blocks=1,
        attention=False,
        z_channels=8,
        quantizer=QuantizerConfig(codebook_size=CODES, code_dim=4),
        video=VideoNetConfig(causal=causal, factorised=True, time_strides=[1, 2]),
    )
    tokenizer = Tokenizer(model, TRANSFORM)
    with torch.no_grad():
        for module in tokenizer.quantizer.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.normal_()
    tokenizer.save_pretrained(folder)
    return str(folder)
