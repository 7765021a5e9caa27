"""Model cards of released and of converted tokenizers: values, for the texts in launch/templates.

Priors' cards share `Publication`, `about_training` and `metadata`.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from data.media import Transform
from data.shards.identity import name_of
from data.sounds.config import SoundConfig
from data.videos.config import VideoConfig
from launch.files.places import place_name, without_places
from launch.files.templates import render
from stage1_tokenizer.publishing.sets import index_of, is_recorded, set_of
from stage1_tokenizer.publishing.standalone import snippet
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import OpenedRun

PICTURES, SOUNDS, VIDEOS = "reconstructions.png", "sounds", "videos"
"""In a release: a picture of samples and their reconstructions, and of sounds or videos a folder with them."""

SHOWN = {
    "samples": "pictures measured",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "difference_psnr": "PSNR of frame differences (dB)",
    "flicker": "flicker",
    "real_flicker": "flicker of the originals",
    "frechet_video_vgg16": "Fréchet distance (VGG16 features of frames and differences)",
    "fvd_styleganv": "FVD (StyleGAN-V's network)",
    "rfid": "Fréchet distance",
    "codebook_usage": "share of the codes used",
    "perplexity": "perplexity of the codes",
    "bits_per_pixel": "bits per pixel",
    "mel_distance": "mel distance",
    "stft_distance": "STFT distance",
    "si_sdr": "SI-SDR (dB)",
    "stoi": "STOI",
    "estoi": "ESTOI",
    "pesq": "PESQ",
    "bits_per_second": "bits per second",
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
    """Write a released tokenizer's card; `pictures` names the set of its pictures or sounds, if it has any."""
    measured, tokenizer = metrics["measured"], opened.tokenizer
    transform: Any = tokenizer.transform
    titles = SHOWN | {"samples": f"{transform.kind} measured"}
    known: dict[str, Any] = {key: getattr(transform, key, None) for key in ("channels", "fit", "resize")}
    if isinstance(transform, SoundConfig):
        known |= {key: getattr(transform, key) for key in ("sample_rate", "loudness")}
        known |= {key: metrics.get(key) for key in ("bits_per_second", "by_books")}
        known |= {"books": tokenizer.codebooks, **players(path.parent / SOUNDS)}
    if isinstance(transform, VideoConfig):
        shown = sorted((path.parent / VIDEOS).glob("*.webp"))
        known |= {"videos": [f"{VIDEOS}/{file.name}" for file in shown]}
        known |= {"bits_per_second": metrics.get("bits_per_second"), "causal": tokenizer.config.video.causal}
        known |= {"stride_of_time": tokenizer.config.stride[0]}
    text = render(
        {"sounds": "card_sounds.md", "videos": "card_videos.md"}.get(transform.kind, "card_tokenizer.md"),
        metadata=_metadata(publication, opened, metrics),
        name=publication.name,
        place=publication.place,
        limits=publication.limits,
        snippet=snippet(tokenizer, publication.place),
        pictures=pictures,
        pictures_file=PICTURES,
        discriminator=discriminator,
        **about_tokenizer(tokenizer, transform),
        **known,
        **about_training(opened.folder, opened.config, opened.origin, opened.step),
        figures=[(titles[key], metrics[key]) for key in SHOWN if key in metrics],
        by=measured.get("by", "stage1_tokenizer.evaluate"),
        held_out=name_of(measured["data"]) if measured.get("data") else "no set",
        subset=measured.get("subset", f"{metrics.get('samples')} {transform.kind}"),
        method=measured.get("pictures", "as metrics.json says"),
        lpips=measured.get("lpips", "not measured"),
    )
    path.write_text(text)


def players(folder: Path) -> dict[str, Any]:
    """The sounds of a folder (stage1_tokenizer.measuring.sounds_shown) for a card: title and address of each, by clip.

    The addresses hold the sounds themselves, so that a card plays them wherever it is shown.
    """
    clips: dict[str, list[tuple[str, str]]] = {}
    for file in sorted(folder.glob("*.flac"), key=lambda file: (file.stem[:2], _place(file.stem[2:]))):
        address = "data:audio/flac;base64," + base64.b64encode(file.read_bytes()).decode()
        clips.setdefault(file.stem[:2], []).append((_title(file.stem[2:]), address))
    return {"sounds": list(clips.values()), "titles": [title for title, _ in next(iter(clips.values()), [])]}


def _place(name: str) -> tuple[int, int]:
    """Where a sound comes among those of its clip: the original, then by number of codebooks."""
    count = name.removeprefix("-books-")
    return (0, 0) if name == "-original" else (1, int(count)) if count.isdecimal() else (2, 0)


def _title(name: str) -> str:
    count = name.removeprefix("-books-")
    books = f"{count} codebook{'s' if count != '1' else ''}" if count.isdecimal() else "all codes"
    return "original" if name == "-original" else books


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
    tags = [f"{_medium(tokenizer.transform)}-tokenizer", "vector-quantization"]
    text = render(
        "card_converted.md",
        metadata=metadata(origin.licence, name, library_name="vqloom", tags=tags),
        name=name,
        origin=origin,
        snippet=snippet(tokenizer, name),
        **about_tokenizer(tokenizer, tokenizer.transform),
    )
    path.write_text(text)


def _medium(transform: Transform) -> str:
    """What the Hub's tags call a transform's samples."""
    return {"sounds": "audio", "videos": "video"}.get(transform.kind, "image")


def about_tokenizer(tokenizer: Tokenizer, transform: Any) -> dict[str, Any]:
    """A tokenizer's facts for its card, with samples of a transform."""
    grid, codes = "×".join(map(str, tokenizer.codes_shape(transform.sizes))), tokenizer.codebook_size
    if isinstance(transform, SoundConfig):
        seconds, channels = transform.length / transform.sample_rate, "mono" if transform.channels == 1 else "stereo"
        sample = f"{seconds:.4g} s ({transform.length} samples at {transform.sample_rate} Hz, {channels})"
    elif isinstance(transform, VideoConfig):
        rate = f" at {transform.frame_rate:g} frames a second" if transform.frame_rate else ""
        sample = f"{transform.frames} frames of {transform.size}×{transform.size} pixels{rate}"
    else:
        sample = f"{transform.size}×{transform.size} pixels"
    return {
        "kind": transform.kind,
        "sample": sample,
        "size": getattr(transform, "size", None),
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
    medium = _medium(opened.tokenizer.transform) if opened.tokenizer.transform else "image"
    kind = ["vqgan"] if medium == "image" else []
    data = metrics["measured"].get("data") or set_of(opened.folder, opened.config, "index")
    results = [
        EvalResult(
            task_type=f"{medium}-to-{medium}",
            task_name="reconstruction",
            dataset_type=re.sub(r"[^\w.-]+", "-", name_of(data)),
            dataset_name=name_of(data),
            metric_type=key,
            metric_name=SHOWN[key],
            metric_value=round(metrics[key], 6),
        )
        for key in ("psnr", "ssim", "lpips", "difference_psnr", "rfid", "mel_distance", "si_sdr", "stoi")
        if key in metrics
    ]
    return metadata(
        publication.licence,
        publication.name,
        library_name="transformers",
        tags=["vqloom", f"{medium}-tokenizer", "vector-quantization", *kind, "custom_code"],
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
