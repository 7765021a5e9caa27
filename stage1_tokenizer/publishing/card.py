"""Model cards of released and of converted tokenizers: values, for the texts in launch/templates.

Priors' cards share `Publication`, `about_training` and `metadata`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from data.shards.identity import name_of
from launch.files.places import place_name, without_places
from launch.files.templates import render
from stage1_tokenizer.publishing.sets import index_of, is_recorded, set_of
from stage1_tokenizer.publishing.standalone import snippet
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import OpenedRun

PICTURES = "reconstructions.png"

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


@dataclass(frozen=True)
class Publication:
    """What the person who releases a model says about it."""

    name: str
    licence: str
    """Identifier of the licence on the Hub."""
    place: str
    """Where users load it from: a name on the Hub, or the folder's name."""
    limits: str | None = None
    """What the model should not be used for, or is bad at."""


def write_card(
    path: Path,
    publication: Publication,
    opened: OpenedRun,
    metrics: dict[str, Any],
    *,
    pictures: str | None,
    discriminator: bool,
) -> None:
    """Write a released tokenizer's card; `pictures` names the set of its pictures, if it has any."""
    measured, tokenizer = metrics["measured"], opened.tokenizer
    transform = opened.config["data"]["transform"]
    text = render(
        "card_tokenizer.md",
        metadata=_metadata(publication, opened, metrics),
        name=publication.name,
        place=publication.place,
        limits=publication.limits,
        snippet=snippet(tokenizer, publication.place),
        pictures=pictures,
        pictures_file=PICTURES,
        discriminator=discriminator,
        **about_tokenizer(tokenizer, transform["size"]),
        **{key: transform[key] for key in ("channels", "fit", "resize")},
        **about_training(opened.folder, opened.config, opened.origin, opened.step),
        figures=[(title, metrics[key]) for key, title in SHOWN.items() if key in metrics],
        by=measured.get("by", "stage1_tokenizer.evaluate"),
        held_out=name_of(measured["data"]) if measured.get("data") else "no set",
        subset=measured.get("subset", f"{metrics.get('samples')} pictures"),
        method=measured.get("pictures", "as metrics.json says"),
        lpips=measured.get("lpips", "not measured"),
    )
    path.write_text(text)


@dataclass(frozen=True)
class Origin:
    """Where a converted tokenizer came from."""

    layout: str
    file: str
    sha256: str
    """Of the file, the checkpoint."""
    settings: str | None
    """Name of the peer's configuration file."""
    origin: str | None
    """Where it was published, as stated by the user; so is the licence."""
    licence: str | None
    notes: list[str]
    """Decisions that the conversion had to make."""
    discriminator: str
    """Where the discriminator is, or why there is none."""


def write_converted_card(path: Path, name: str, tokenizer: Tokenizer, origin: Origin) -> None:
    """Write a converted tokenizer's card: its origin, its use, and what isn't known about it."""
    assert tokenizer.transform is not None
    tags = ["image-tokenizer", "vector-quantization"]
    text = render(
        "card_converted.md",
        metadata=metadata(origin.licence, name, library_name="vqloom", tags=tags),
        name=name,
        origin=origin,
        snippet=snippet(tokenizer, name),
        **about_tokenizer(tokenizer, tokenizer.transform.size),
    )
    path.write_text(text)


def about_tokenizer(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """A tokenizer's facts for its card."""
    grid, codes = "×".join(map(str, tokenizer.codes_shape(size))), tokenizer.codebook_size
    return {
        "size": size,
        "stride": tokenizer.stride,
        "has_codes": bool(codes),
        "codes": f"{grid} codes out of {codes}" if codes else f"{grid} Gaussian latents",
        "millions": sum(tensor.numel() for tensor in tokenizer.weights().values()) / 1e6,
        "fingerprint": tokenizer.fingerprint,
    }


def about_training(run: Path, config: Mapping[str, Any], origin: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The facts of a run (its folder) of either stage for its card: data, steps, precision, commit, hardware, date."""
    starts = origin.get("starts", [origin])
    commit, hardware, date = (
        ", then ".join(dict.fromkeys(start.get(key) or "unknown" for start in starts))
        for key in ("commit", "hardware", "date")
    )
    return {
        "data": _trained_on(run, config),
        "steps": steps,
        "batch": config["data"]["batch_size"],
        "precision": config["run"]["precision"],
        "ema": config["optimizer"]["ema_decay"],
        "commit": commit,
        "hardware": hardware,
        "date": date[:10],
    }


def metadata(licence: str | None, name: str, **values: Any) -> str:
    """A card's header as the Hub reads it (YAML); `values` are those of ModelCardData."""
    other = f"see {name}" if licence == "other" else None
    return ModelCardData(license=licence, license_name=other, **values).to_yaml()


def _metadata(publication: Publication, opened: OpenedRun, metrics: dict[str, Any]) -> str:
    data = metrics["measured"].get("data") or set_of(opened.folder, opened.config, "index")
    results = [
        EvalResult(
            task_type="image-to-image",
            task_name="reconstruction",
            dataset_type=re.sub(r"[^\w.-]+", "-", name_of(data)),
            dataset_name=name_of(data),
            metric_type=key,
            metric_name=SHOWN[key],
            metric_value=round(metrics[key], 6),
        )
        for key in ("psnr", "ssim", "lpips", "rfid")
        if key in metrics
    ]
    return metadata(
        publication.licence,
        publication.name,
        library_name="transformers",
        tags=["vqloom", "image-tokenizer", "vector-quantization", "vqgan", "custom_code"],
        metrics=[key for key in SHOWN if key in metrics and key != "samples"],
        model_name=publication.name,
        eval_results=results or None,
    )


def _trained_on(run: Path, config: Mapping[str, Any]) -> str:
    """Name, size, identity and licence of the training data, as far as they are known."""
    known, index = set_of(run, config, "index") or {}, index_of(config, "index")
    if index is None:
        licence = "Its licence isn't known: the index could not be read when this card was written"
    elif not is_recorded(run, index, "index"):
        licence = "Its licence isn't known: the index held other data when this card was written"
    else:
        stated = index.licence if "://" in index.licence else without_places(index.licence)
        licence = f"Licence: {stated or 'not stated'}"
    size = f", {known['samples']} {known['kind']}" if "samples" in known else ""
    identity = f", identity `{known['digest']}`" if "digest" in known else ""
    more = f", mixed with {', '.join(map(place_name, mixture))}" if (mixture := config["data"].get("mixture")) else ""
    return f"Trained on {known.get('name', 'unknown data')}{size}{identity}{more}. {licence}"
