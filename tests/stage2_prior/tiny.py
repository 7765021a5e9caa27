"""Small real parts for the tests of stage two."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.pictures.config import TransformConfig
from data.shards.writer import Sample, ShardWriter
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import build_prior

CODES, CLASSES, GRID = 24, ("circle", "square", "star"), (3, 4)
SOURCE = CodeSource("f" * 64, CODES, GRID, {"size": 12, "channels": 1})


NORMED: list[dict[str, object]] = [{"architecture": "qwen3"}, {"architecture": "olmo2"}]
NORMED += [{"architecture": "qwen3", "key_value_heads": 2}, {"architecture": "olmo2", "key_value_heads": 2}]
"""Settings of stock models with other norms than a Llama's."""


def tiny_prior(seed: int = 0, spread: float = 6.0, source: CodeSource = SOURCE, **settings: object) -> Prior:
    """A prior of two layers; `spread` scales its matrices, so that its choices are far from uniform.

    The weights of its norms differ from 1, so that it matters where they are.
    """
    torch.manual_seed(seed)
    defaults = {"layers": 2, "width": 32, "heads": 4} | settings
    prior = build_prior(PriorModelConfig(**defaults), source, CLASSES).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in prior.parameters():
            if weight.ndim == 2:
                weight.mul_(spread)
            elif bool((weight == 1).all()):
                weight.copy_(torch.linspace(0.8, 1.2, len(weight)))
    return prior


def random_codes(batch: int, seed: int = 1) -> torch.Tensor:
    """code_BN for the tiny prior."""
    return torch.randint(CODES, (batch, SOURCE.positions), generator=torch.Generator().manual_seed(seed))


TEXTS = ("bright above", "bright at the left", "a bright box")


def write_pictures(folder: Path, *, shards: int, each: int, seed: int = 0, captions: bool = False) -> str:
    """Shards of 16×16 grey pictures of three classes (what differs is where the bright half lies); their index.

    With captions, they have TEXTS instead of labels; each fifth picture has none.
    """
    random = np.random.default_rng(seed)
    tars = ShardWriter(folder)
    tars.begin({"seed": seed}, ["index.json"])

    def samples(shard: int) -> Iterator[Sample]:
        for i in range(each):
            label = (shard * each + i) % len(CLASSES)
            pixels_HW = random.integers(0, 80, (16, 16), dtype=np.uint8)
            half_HW = (pixels_HW[:8], pixels_HW[:, :8], pixels_HW[4:12, 4:12])[label]
            half_HW += 150
            png = io.BytesIO()
            Image.fromarray(pixels_HW).save(png, "png")
            about = {"cls": str(label).encode()}
            if captions:
                about = {"txt": TEXTS[label].encode()} if i % 5 else {}
            yield f"{shard:02d}_{i:03d}", {"png": png.getvalue(), **about}

    records = [tars.write(f"pictures-{shard:06d}.tar", samples(shard)) for shard in range(shards)]
    tars.finish({"index.json": tars.index(records, name="halves", classes=list(CLASSES))})
    return str(folder / "index.json")


def write_tokenizer(folder: Path, *, seed: int = 0, **quantizer: object) -> str:
    """An untrained tokenizer for them: 4×4 codes out of 24, with `quantizer` another kind of codes."""
    from stage1_tokenizer import Tokenizer
    from stage1_tokenizer.config.training import ModelConfig, QuantizerConfig

    torch.manual_seed(seed)
    settings = QuantizerConfig(**{"codebook_size": CODES, "code_dim": 4} | quantizer)  # type: ignore[arg-type]
    model = ModelConfig(
        in_channels=1,
        channels=32,
        channel_multipliers=[1, 1, 1],
        res_blocks=1,
        attention=False,
        z_channels=8,
        quantizer=settings,
    )
    tokenizer = Tokenizer(model, TransformConfig(size=16, channels=1))
    with torch.no_grad():
        for module in tokenizer.quantizer.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.normal_()
    tokenizer.save_pretrained(folder)
    return str(folder)
