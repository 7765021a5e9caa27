"""Given pictures with a hole, whose codes are kept outside it.

Shapes: B pictures, C channels, H W pixels, h w latent grid, N codes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from data.media import read_transform
from data.pictures.config import TransformConfig
from data.pictures.decode import opened
from data.pictures.transforms import to_float
from data.reading.stream import every_sample
from data.shards.classes import held_to
from data.shards.loading import load_index, names_tars
from data.shards.signature import PICTURES
from launch.command.cli import UserError, reason
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.tokenizer.pil import as_batch, to_pil
from stage2_prior.config.sampling import InpaintConfig
from stage2_prior.priors.base import Prior
from stage2_prior.sampling.conditions import Subjects, numbered, prompts_of, say_cut
from stage2_prior.sampling.masks import read_mask

HOLE = 0.5
"""Brightness of the hole where it is shown, in [-1, 1]."""


class Given(Subjects):
    """Given pictures with a hole."""

    what = "given pictures"

    def __init__(self, config: InpaintConfig, prior: Prior, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        transform = read_transform(prior.source.transform)
        self.x_BCHW, names, labels, captions, sizes = read(config, transform, prior)
        super().__init__(prior, range(len(names)), names, numbered(names))
        self.classes = requested_classes(config.classes, labels, prior)
        texts = requested_texts(config, captions) if prior.condition.prefix else []
        condition = prior.condition
        self._tokens = condition.of_texts(texts) if texts else condition.of_labels(torch.tensor(self.classes))
        say_cut(prior, texts)
        self.guidable = any(texts) or any(label >= 0 for label in self.classes)
        self.hole_HW = read_mask(config.mask, transform, sizes) if config.mask else hole(config, transform.size)
        self.open_N = open_codes(self.hole_HW, prior)
        check_hole(prior, self.open_N, config)
        self._codes: dict[int, Tensor] = {}

    def about(self) -> dict[str, Any]:
        """The given pictures and the hole, by their pixels."""
        hashes = {"pictures": self.x_BCHW, "hole": self.hole_HW}
        return {"given": {key: hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16] for key, x in hashes.items()}}

    def class_of(self, label: int) -> int:
        """The class requested for a given picture."""
        return self.classes[label]

    def given(self, labels: Sequence[int]) -> Tensor:
        """The pictures' codes, given_BN, -1 in the hole."""
        idx_BN = torch.stack([self._of(label) for label in labels])
        return idx_BN.masked_fill(self.open_N.to(idx_BN.device), -1)

    @torch.inference_mode()
    def _of(self, label: int) -> Tensor:
        """A picture's codes, idx_N; it is encoded alone, so that they don't depend on the other pictures."""
        if label not in self._codes:
            device = next(self.tokenizer.parameters()).device
            self._codes[label] = self.tokenizer.encode(self.x_BCHW[label : label + 1].to(device)).flatten()
        return self._codes[label]

    def shown(self, label: int) -> dict[str, Image.Image]:
        """The picture, and the picture with the hole."""
        x_CHW = self.x_BCHW[label]
        given, holed = to_pil(torch.stack([x_CHW, torch.where(self.hole_HW, HOLE, x_CHW)]))
        return {"given": given, "hole": holed}


def read(
    config: InpaintConfig, transform: TransformConfig, prior: Prior
) -> tuple[Tensor, list[str], list[int], list[str], set[tuple[int, int]]]:
    """The given pictures as prepared for the tokenizer, x_BCHW; names, labels (-1: none) and captions ("": none).

    Last the sizes (width, height) of picture files; of an index they aren't known.
    """
    path, names = Path(config.given), prior.vocabulary.classes
    if config.given.endswith(".json") or names_tars(config.given):
        index, ours = load_index(config.given), bool(names) and config.classes is None
        if index.kind != "pictures":
            raise UserError(f"given={config.given} holds {index.kind}, not pictures: give an index of pictures")
        if ours and index.classes:
            index = held_to(index, names, f"given={config.given}", "the prior", print)
        batches = list(every_sample(index, transform, batch_size=64, limit=config.limit))
        keys = [key for batch in batches for key in batch.keys]
        labels = [label if ours and index.classes else -1 for batch in batches for label in batch.label_B.tolist()]
        captions = [text for batch in batches for text in batch.captions]
        return to_float(torch.cat([batch.pixels_BCHW for batch in batches])), keys, labels, captions, set()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower().lstrip(".") in PICTURES and file.is_file()][: config.limit]
    if not files:
        raise UserError(f"given={config.given} is no picture and holds none: give a file, a folder or an index")
    parts, sizes = [], set()
    for file in files:
        try:
            with opened(file.read_bytes()) as image:
                parts.append(as_batch(image, transform))
                sizes.add(ImageOps.exif_transpose(image).size)
        except Exception as error:  # PIL raises all kinds of exceptions on damaged input
            raise UserError(f"given={file} can't be used ({reason(error)}): leave it out") from error
    return torch.cat(parts), [file.stem for file in files], [-1] * len(files), [""] * len(files), sizes


def requested_classes(classes: Sequence[str] | None, own: list[int], prior: Prior) -> list[int]:
    """The class of each picture: the configured ones, else its own. UserError for a wrong number of classes."""
    if classes is None:
        return own
    labels = [prior.vocabulary.label(name) for name in classes]
    if len(labels) not in (1, len(own)):
        raise UserError(f"classes names {len(labels)} classes for {len(own)} pictures: give one, or one for each")
    return labels * len(own) if len(labels) == 1 else labels


def requested_texts(config: InpaintConfig, own: list[str]) -> list[str]:
    """The text of each picture: the configured ones, else its own caption. UserError for a wrong number of texts."""
    texts = prompts_of(config.prompt, config.prompts) or own
    if len(texts) not in (1, len(own)):
        raise UserError(f"prompts={config.prompts} has {len(texts)} texts for {len(own)} pictures: give one for each")
    return texts * len(own) if len(texts) == 1 else texts


def hole(config: InpaintConfig, size: int) -> Tensor:
    """The part of the prepared pictures to redraw, hole_HW bool."""
    inside_HW = torch.zeros(size, size, dtype=torch.bool)
    kept = round(size * config.share)
    first = (size - kept) // 2
    boxes: dict[str, Any] = {
        "top": (slice(kept), slice(None)),
        "bottom": (slice(size - kept, None), slice(None)),
        "left": (slice(None), slice(kept)),
        "right": (slice(None), slice(size - kept, None)),
        "middle": (slice(first, first + kept),) * 2,
        "border": (slice(kept - kept // 2, size - kept // 2),) * 2,
    }
    inside_HW[boxes[config.keep]] = True
    return inside_HW if config.keep == "border" else ~inside_HW


def open_codes(hole_HW: Tensor, prior: Prior) -> Tensor:
    """Which codes the prior draws for a hole, open_N bool; UserError for codes without a place."""
    if len(prior.source.grid) != 2:
        raise UserError(f"codes of {prior.source} have no place in the picture, so no part of it can be kept")
    return prior.open_codes(hole_HW)


def check_hole(prior: Prior, open_N: Tensor, config: InpaintConfig) -> None:
    """UserError for an empty or full hole, and for kept codes after the hole that the prior can't attend to."""
    what = f"mask={config.mask}" if config.mask else f"keep={config.keep} with share={config.share:g}"
    if open_N.all() or not open_N.any():
        way = "paint other parts white" if config.mask else "choose another share"
        raise UserError(f"{what} leaves {'no code' if open_N.all() else 'all codes'} in place: {way}")
    if prior.in_order:
        place_P = open_N[: len(open_N) // prior.source.codebooks]
        if not place_P[int(place_P.int().argmax()) :].all():
            raise UserError(
                f"{what} keeps codes after the hole, but a prior of kind {prior.kind} draws row by row and doesn't "
                f"attend to them: {'paint only the lower rows white' if config.mask else 'set keep to top'}, or use a "
                "masked or multiscale prior"
            )
