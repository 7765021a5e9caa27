"""Given pictures or sounds with a hole, whose codes are kept outside it.

Shapes: B samples, C channels, H W pixels, h w latent grid, N codes; of sounds T stands for H W and h w."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.media import Transform, read_transform
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from data.shards.classes import held_to
from data.shards.loading import load_index, names_tars
from launch.command.cli import UserError, reason
from stage1_tokenizer import Tokenizer
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.config.sampling import InpaintConfig
from stage2_prior.priors.base import Prior
from stage2_prior.sampling.conditions import Subjects, numbered, prompts_of, say_cut
from stage2_prior.sampling.masks import read_mask

ALONG = {"start": "top", "end": "bottom"}
"""What stays of a sound, by the names for pictures: its only axis is the first."""


class Given(Subjects):
    """Given samples with a hole."""

    def __init__(self, config: InpaintConfig, prior: Prior, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        transform, self.kind = read_transform(prior.source.transform), sample_kind(prior.source.kind)
        self.what = f"given {self.kind.name}"
        self.x_BCHW, names, labels, captions, sizes = read(config, transform, prior)
        super().__init__(prior, range(len(names)), names, numbered(names))
        self.classes = requested_classes(config.classes, labels, prior)
        texts = requested_texts(config, captions, self.kind.name) if prior.condition.texts else []
        condition = prior.condition
        self._tokens = condition.of_texts(texts) if texts else condition.of_labels(torch.tensor(self.classes))
        say_cut(prior, texts)
        self.guidable = any(texts) or any(label >= 0 for label in self.classes)
        self.hole_HW = _masked(config, transform, sizes) if config.mask else hole(config, transform.sizes)
        self.open_N = open_codes(self.hole_HW, prior)
        check_hole(prior, self.open_N, config)
        self._codes: dict[int, Tensor] = {}

    def about(self) -> dict[str, Any]:
        """The given samples and the hole, by their values."""
        hashes = {self.kind.name: self.x_BCHW, "hole": self.hole_HW}
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

    def shown(self, label: int) -> dict[str, Any]:
        """The sample, and the sample with the hole."""
        x_CHW = self.x_BCHW[label]
        both_BCHW = torch.stack([x_CHW, torch.where(self.hole_HW, self.kind.empty, x_CHW)])
        given, holed = self.kind.decoded(self.tokenizer, both_BCHW)
        return {"given": given, "hole": holed}


def _masked(config: InpaintConfig, transform: Transform, sizes: set[tuple[int, ...]]) -> Tensor:
    """The hole of a picture's mask, hole_HW."""
    if not isinstance(transform, TransformConfig):
        raise UserError(f"mask={config.mask} is for pictures: set keep and share instead")
    return read_mask(str(config.mask), transform, {(size[0], size[1]) for size in sizes})


def read(
    config: InpaintConfig, transform: Transform, prior: Prior
) -> tuple[Tensor, list[str], list[int], list[str], set[tuple[int, ...]]]:
    """The given samples as prepared for the tokenizer, x_BCHW; names, labels (-1: none) and captions ("": none).

    Last the sizes (width, height) of picture files; of an index they aren't known.
    """
    path, names, kind = Path(config.given), prior.vocabulary.classes, sample_kind(prior.source.kind)
    what = kind.name
    if config.given.endswith(".json") or names_tars(config.given):
        index, ours = load_index(config.given), bool(names) and config.classes is None
        if index.kind != what:
            raise UserError(f"given={config.given} holds {index.kind}, not {what}: give an index of {what}")
        if ours and index.classes:
            index = held_to(index, names, f"given={config.given}", "the prior", print)
        batches = list(every_sample(index, transform, batch_size=64, limit=config.limit))
        keys = [key for batch in batches for key in batch.keys]
        labels = [label if ours and index.classes else -1 for batch in batches for label in batch.label_B.tolist()]
        captions = [text for batch in batches for text in batch.captions]
        x_BCHW = torch.cat([kind.input(batch, torch.device("cpu")) for batch in batches])
        return x_BCHW, keys, labels, captions, set()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower().lstrip(".") in kind.extensions and file.is_file()]
    files = files[: config.limit]
    if not files:
        raise UserError(f"given={config.given} is no {what[:-1]} and holds none: give a file, a folder or an index")
    parts, sizes = [], set()
    for file in files:
        try:
            x_BCHW, size = kind.read(file.read_bytes(), transform)
        except Exception as error:  # PIL raises all kinds of exceptions on damaged input
            raise UserError(f"given={file} can't be used ({reason(error)}): leave it out") from error
        parts.append(x_BCHW)
        sizes.add(size)
    return torch.cat(parts), [file.stem for file in files], [-1] * len(files), [""] * len(files), sizes


def requested_classes(classes: Sequence[str] | None, own: list[int], prior: Prior) -> list[int]:
    """The class of each picture: the configured ones, else its own. UserError for a wrong number of classes."""
    if classes is None:
        return own
    labels = [prior.vocabulary.label(name) for name in classes]
    if len(labels) not in (1, len(own)):
        what = prior.source.kind
        raise UserError(f"classes names {len(labels)} classes for {len(own)} {what}: give one, or one for each")
    return labels * len(own) if len(labels) == 1 else labels


def requested_texts(config: InpaintConfig, own: list[str], what: str = "pictures") -> list[str]:
    """The text of each sample: the configured ones, else its own caption. UserError for a wrong number of texts."""
    texts = prompts_of(config.prompt, config.prompts) or own
    if len(texts) not in (1, len(own)):
        raise UserError(f"prompts={config.prompts} has {len(texts)} texts for {len(own)} {what}: give one for each")
    return texts * len(own) if len(texts) == 1 else texts


def hole(config: InpaintConfig, sizes: Sequence[int]) -> Tensor:
    """The part of the prepared samples to redraw, hole_HW bool. UserError for a part that they haven't."""
    keep = ALONG.get(config.keep, config.keep) if len(sizes) == 1 else config.keep
    inside_HW = torch.zeros(*sizes, dtype=torch.bool)
    middle, border, axes = [], [], []
    for size in sizes:
        kept = round(size * config.share)
        first = (size - kept) // 2
        middle.append(slice(first, first + kept))
        border.append(slice(kept - kept // 2, size - kept // 2))
        axes.append((slice(kept), slice(size - kept, None)))
    boxes: dict[str, Any] = {"middle": tuple(middle), "border": tuple(border)}
    names = [("top", "bottom"), ("left", "right")]
    for number, (pair, parts) in enumerate(zip(names, axes, strict=False)):
        boxes |= {name: (slice(None),) * number + (part,) for name, part in zip(pair, parts, strict=True)}
    if keep not in boxes:
        able = "start, end, middle or border" if len(sizes) == 1 else ", ".join(boxes)
        raise UserError(f"keep={config.keep} is for {'pictures' if len(sizes) == 1 else 'sounds'}: set it to {able}")
    inside_HW[boxes[keep]] = True
    return inside_HW if keep == "border" else ~inside_HW


def open_codes(hole_HW: Tensor, prior: Prior) -> Tensor:
    """Which codes the prior draws for a hole, open_N bool; UserError for codes without a place."""
    if len(prior.source.grid) != hole_HW.ndim:
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
            sounds = prior.source.kind == "sounds"
            way = "paint only the lower rows white" if config.mask else f"set keep to {'start' if sounds else 'top'}"
            raise UserError(
                f"{what} keeps codes after the hole, but a prior of kind {prior.kind} draws "
                f"{'from start to end' if sounds else 'row by row'} and doesn't attend to them: {way}, or use a "
                f"masked{'' if sounds else ' or multiscale'} prior"
            )
