"""The model card of a released tokenizer, from the run alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.cli import UserError

if TYPE_CHECKING:
    from data.index import ShardIndex
    from stage1_tokenizer.release import OpenedRun

TEMPLATE = """---
license: {licence}
library_name: vqloom
tags:
- image-tokenizer
- vector-quantization
- vqgan
metrics:
- psnr
- lpips
---

# {name}

An image tokenizer made with vqloom: {what}.

## Use

From a checkout of vqloom (`pip install -e .`), with this folder at `{name}`:

```python
import numpy as np
import torch
from PIL import Image

from data.transforms import apply, to_float, to_uint8
from stage1_tokenizer import Tokenizer

tokenizer = Tokenizer.from_pretrained("{name}")
picture_HWC = np.atleast_3d(np.asarray(Image.open("picture.png").convert("{mode}")))
pixels_HWC = np.empty(({size}, {size}, {channels}), np.uint8)
apply(picture_HWC, tokenizer.transform, None, pixels_HWC)
x_BCHW = to_float(torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None])

idx_Bhw = tokenizer.encode(x_BCHW)  # int64 codes, {grid}
recon_BCHW = to_uint8(tokenizer.decode(idx_Bhw))
```

## Data

{data}

Each picture is prepared as `preprocessor_config.json` says: {size}×{size}, {channels} channel(s), fit `{fit}`, \
resized with `{resize}`.

## Training

{steps} steps at a global batch of {batch}, {precision}; averaged weights (decay {ema}). Commit {commit}; {hardware}; \
{date}. Fingerprint `{fingerprint}`.

## Figures

{figures}

Measured by {by}, on `{held_out}` ({subset}): {pictures}; LPIPS {lpips}. `metrics.json` has all figures.
"""

SHOWN = {
    "samples": "pictures measured",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "codebook_usage": "share of the codes used",
    "perplexity": "perplexity of the codes",
    "bits_per_pixel": "bits per pixel",
}


def write_card(path: Path, name: str, licence: str, opened: OpenedRun, metrics: dict[str, Any]) -> None:
    """Write the model card."""
    config, measured = opened.config, metrics["measured"]
    transform = config["data"]["transform"]
    size, channels = transform["size"], transform["channels"]
    grid = "×".join(map(str, opened.tokenizer.codes_shape(size)))
    text = TEMPLATE.format(
        name=name,
        licence=licence,
        what=_what(opened, size, grid),
        mode="L" if channels == 1 else "RGB",
        size=size,
        channels=channels,
        grid=grid,
        fit=transform["fit"],
        resize=transform["resize"],
        data=trained_on(config["data"]["index"]),
        steps=opened.step,
        batch=config["data"]["batch_size"],
        precision=config["run"]["precision"],
        ema=config["optimizer"]["ema_decay"],
        commit=said(opened.origin, "commit"),
        hardware=said(opened.origin, "hardware"),
        date=said(opened.origin, "date")[:10],
        fingerprint=opened.tokenizer.fingerprint,
        figures=_figures(metrics),
        by=measured.get("by", "stage1_tokenizer.evaluate"),
        held_out=measured.get("data"),
        subset=measured.get("subset", f"{metrics.get('samples')} pictures"),
        pictures=measured["pictures"],
        lpips=measured["lpips"],
    )
    path.write_text(text)


def _what(opened: OpenedRun, size: int, grid: str) -> str:
    tokenizer = opened.tokenizer
    count = sum(parameter.numel() for parameter in tokenizer.parameters()) / 1e6
    codes = f"{grid} codes out of {tokenizer.codebook_size}" if tokenizer.codebook_size else f"{grid} Gaussian latents"
    return f"{size}×{size} pixels become {codes} and back ({count:.2f} M parameters)"


def said(origin: dict[str, Any], key: str) -> str:
    """What the starts of a run say of a key, each answer once, in their order."""
    answers = [start.get(key) or "unknown" for start in origin.get("starts", [origin])]
    return ", then ".join(dict.fromkeys(answers))


def _figures(metrics: dict[str, Any]) -> str:
    rows = [f"| {title} | {metrics[key]:.4g} |" for key, title in SHOWN.items() if key in metrics]
    return "\n".join(["| figure | value |", "|---|---|", *rows]) if rows else "None were measured."


def trained_on(index_path: str) -> str:
    """Name, size and licence of the training data, where the index is still there."""
    from data.index import ShardIndex

    try:
        index: ShardIndex = ShardIndex.load(index_path)
    except (UserError, OSError):
        return f"Trained on `{index_path}`, which could not be read when this card was written; licence not known."
    return f"Trained on {index.name or index_path}, {len(index)} pictures. Licence: {index.licence or 'not stated'}"
