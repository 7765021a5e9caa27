"""The model card of a released tokenizer, from the run alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.shards.loading import load_index
from launch.command.cli import UserError

if TYPE_CHECKING:
    from data.shards.index import ShardIndex
    from stage1_tokenizer.release import ReleaseConfig
    from stage1_tokenizer.tokenizer.opening import OpenedRun

PICTURES = "reconstructions.png"

TEMPLATE = """---
{header}
---

# {name}

An image tokenizer made with vqloom: {what}.
{pictures}
## Use

With torch, transformers and safetensors alone; this code was run on this folder before it was released, and gave the \
same codes as vqloom itself:

```python
{snippet}
```

With vqloom, pictures of any size and mode are prepared as in training:

```python
from PIL import Image
from stage1_tokenizer import Tokenizer

tokenizer = Tokenizer.from_pretrained("{place}")  # a folder, or a name on the Hub (revision=…)
{ours}
```

## Data

{data}

Each picture is prepared as `preprocessor_config.json` says: {size}×{size}, {channels} channel(s), fit `{fit}`, \
resized with `{resize}`.

## Training

{steps} steps at a global batch of {batch}, {precision}; averaged weights (decay {ema}). Commit {commit}; {hardware}; \
{date}. Fingerprint `{fingerprint}`.{discriminator}

## Figures

{figures}

Measured by {by}, on `{held_out}` ({subset}): {measured}; LPIPS {lpips}. `metrics.json` has all figures.

## Limits

{limits}
"""

OURS_CODES = """codes = tokenizer.encode(Image.open("picture.png"))  # also a list of pictures, or a tensor in [-1, 1]
y = tokenizer.decode(codes)
tokenizer.to_pil(y)[0].save("reconstruction.png")"""
OURS_LATENTS = """y, _ = tokenizer.reconstruct(Image.open("picture.png"))
tokenizer.to_pil(y)[0].save("reconstruction.png")"""

SHOWN = {
    "samples": "pictures measured",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "rfid": "Fréchet distance",
    "codebook_usage": "share of the codes used",
    "perplexity": "perplexity of the codes",
    "bits_per_pixel": "bits per pixel",
}


def write_card(
    path: Path, config: ReleaseConfig, opened: OpenedRun, metrics: dict[str, Any], pictures: str | None
) -> None:
    """Write the model card; `pictures` names the set of those beside it, None where there are none."""
    from stage1_tokenizer.publishing.standalone import snippet

    run, measured, tokenizer = opened.config, metrics["measured"], opened.tokenizer
    transform = run["data"]["transform"]
    name = config.name or (config.push or Path(config.out).resolve().name).rpartition("/")[2]
    place = config.push or name
    text = TEMPLATE.format(
        header=header(config, name, opened, metrics),
        name=name,
        what=_what(opened, transform["size"]),
        pictures=f"\n![originals beside their reconstructions]({PICTURES})\n\nFrom `{pictures}`, each original on the "
        f"left and its reconstruction on the right.\n" if pictures else "",
        snippet=snippet(tokenizer, place),
        place=place,
        ours=OURS_CODES if tokenizer.codebook_size else OURS_LATENTS,
        **{key: transform[key] for key in ("size", "channels", "fit", "resize")},
        data=trained_on(run["data"]["index"]),
        steps=opened.step,
        batch=run["data"]["batch_size"],
        precision=run["run"]["precision"],
        ema=run["optimizer"]["ema_decay"],
        **{key: said(opened.origin, key) for key in ("commit", "hardware")},
        date=said(opened.origin, "date")[:10],
        fingerprint=tokenizer.fingerprint,
        discriminator=" The discriminator is in `discriminator.safetensors`." if config.discriminator else "",
        figures=_figures(metrics),
        by=measured.get("by", "stage1_tokenizer.evaluate"),
        held_out=measured.get("data"),
        subset=measured.get("subset", f"{metrics.get('samples')} pictures"),
        measured=measured.get("pictures", "as metrics.json says"),
        lpips=measured.get("lpips", "not measured"),
        limits=_limits(config, opened, measured),
    )  # fmt: skip
    path.write_text(text)


def header(config: ReleaseConfig, name: str, opened: OpenedRun, metrics: dict[str, Any]) -> str:
    """The card's metadata, as the Hub reads it (YAML)."""
    from huggingface_hub import EvalResult, ModelCardData

    data = str(metrics["measured"].get("data") or opened.config["data"]["index"])
    results = [
        EvalResult(
            task_type="image-to-image",
            task_name="reconstruction",
            dataset_type=Path(data).parent.name or "pictures",
            dataset_name=data,
            metric_type=key,
            metric_name=SHOWN[key],
            metric_value=round(metrics[key], 6),
        )
        for key in ("psnr", "ssim", "lpips", "rfid")
        if key in metrics
    ]
    return ModelCardData(
        license=config.licence,
        license_name=f"see {name}" if config.licence == "other" else None,
        library_name="transformers",
        tags=["vqloom", "image-tokenizer", "vector-quantization", "vqgan", "custom_code"],
        metrics=[key for key in SHOWN if key in metrics and key != "samples"],
        model_name=name,
        eval_results=results or None,
    ).to_yaml()


def _what(opened: OpenedRun, size: int) -> str:
    tokenizer = opened.tokenizer
    grid = "×".join(map(str, tokenizer.codes_shape(size)))
    count = sum(parameter.numel() for parameter in tokenizer.parameters()) / 1e6
    codes = f"{grid} codes out of {tokenizer.codebook_size}" if tokenizer.codebook_size else f"{grid} Gaussian latents"
    return f"{size}×{size} pixels become {codes} and back ({count:.2f} M parameters)"


def _limits(config: ReleaseConfig, opened: OpenedRun, measured: dict[str, Any]) -> str:
    """What was not tried; and what whoever releases it says."""
    tokenizer, size = opened.tokenizer, opened.config["data"]["transform"]["size"]
    known = [
        f"Trained and measured at {size}×{size} only; other sizes (multiples of {tokenizer.stride}) were not measured.",
        f"Measured on `{measured.get('data')}` only: other kinds of pictures may come back worse.",
        "Compression loses detail: a reconstruction is no evidence of what its picture showed, least of all of faces "
        "and text. What is rare in the training data comes back worst.",
        "Codes mean something to this tokenizer only, the one with the fingerprint above.",
    ]
    return "\n".join(f"- {line}" for line in [*([config.limits] if config.limits else []), *known])


def said(origin: dict[str, Any], key: str) -> str:
    """What the starts of a run say of a key, each answer once, in their order."""
    answers = [start.get(key) or "unknown" for start in origin.get("starts", [origin])]
    return ", then ".join(dict.fromkeys(answers))


def _figures(metrics: dict[str, Any]) -> str:
    rows = [f"| {title} | {metrics[key]:.4g} |" for key, title in SHOWN.items() if key in metrics]
    return "\n".join(["| figure | value |", "|---|---|", *rows]) if rows else "None were measured."


def trained_on(index_path: str) -> str:
    """Name, size and licence of the training data, where the index is still there."""

    try:
        index: ShardIndex = load_index(index_path)
    except (UserError, OSError):
        return f"Trained on `{index_path}`, which could not be read when this card was written; licence not known."
    return f"Trained on {index.name or index_path}, {len(index)} pictures. Licence: {index.licence or 'not stated'}"
