"""Given pictures, sounds or videos with a hole, whose codes are kept outside it.

Shapes: B samples, C channels, H W pixels, h w latent grid, N codes; of sounds T stands for H W and h w, of videos
T H W.
"""

import hashlib
import sys
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
from stage2_prior.codes.axes import frames_of_codes
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.sampling import InpaintConfig
from stage2_prior.priors.base import Prior
from stage2_prior.sampling.conditions import Subjects, numbered, prompts_of, say_cut
from stage2_prior.sampling.masks import read_mask

TIME, PICTURE = ("start", "end"), (("top", "bottom"), ("left", "right"))
"""Names of the parts at either end of an axis."""
ALONG = {"top": "start", "bottom": "end"}
"""What stays of a sound or video in time, by the names for pictures."""


class Given(Subjects):
    """Given samples with a hole."""

    def __init__(self, config: InpaintConfig, prior: Prior, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        transform, self.kind = read_transform(prior.source.transform), sample_kind(prior.source.kind)
        self.what = f"given {self.kind.name}"
        self.x_BCHW, names, labels, self.captions, sizes = read(config, transform, prior)
        super().__init__(prior, range(len(names)), names, numbered(names))
        self.classes = requested_classes(config.classes, labels, prior)
        texts = requested_texts(config, self.captions, self.kind.name) if prior.condition.prefix else []
        condition = prior.condition
        self._tokens = condition.of_texts(texts) if texts else condition.of_labels(torch.tensor(self.classes))
        say_cut(prior, texts)
        self.guidable = any(texts) or any(label >= 0 for label in self.classes)
        self.hole_HW = _masked(config, transform, sizes) if config.mask else hole(config, transform.sizes)
        self.open_N = open_codes(self.hole_HW, prior)
        check_hole(prior, self.open_N, config)
        if note := half_kept(self.hole_HW, prior.source):
            print(f"note: {note}", file=sys.stderr, flush=True)
        self._codes: dict[int, Tensor] = {}

    def about(self) -> dict[str, Any]:
        """The given samples and the hole, by their values; of videos the number of frames that stay at the start, and
        captions."""
        hashes = {self.kind.name: self.x_BCHW, "hole": self.hole_HW}
        given = {key: hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16] for key, x in hashes.items()}
        if self.hole_HW.ndim < 3:
            return {"given": given}
        begun = int(self.hole_HW.flatten(1).any(1).int().argmax())
        return {"given": given, "frames_kept": begun, "captions": self.captions}

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
    """The part of the prepared samples to redraw, bool of their sizes: hole_HW, hole_T of sounds, hole_THW of videos.

    UserError for a part that they haven't.
    """
    in_time = len(sizes) != 2
    keep = ALONG.get(config.keep, config.keep) if in_time else config.keep
    inside = torch.zeros(*sizes, dtype=torch.bool)
    boxes = _boxes(config, sizes)
    if config.frames is not None and len(sizes) != 3:
        raise UserError(f"frames={config.frames} is for videos: set share instead")
    if keep not in boxes:
        others = "pictures and videos" if in_time else "sounds and videos"
        raise UserError(f"keep={config.keep} is for {others}: set it to one of {', '.join(boxes)}")
    for box in boxes[keep]:
        inside[box] = True
    return inside if keep == "border" else ~inside


Box = tuple[slice, ...]


def _boxes(config: InpaintConfig, sizes: Sequence[int]) -> dict[str, tuple[Box, ...]]:
    """What stays by the names of `keep`; of `border`, what doesn't."""
    names = (TIME, *PICTURE) if len(sizes) == 3 else (TIME,) if len(sizes) == 1 else PICTURE
    first = 1 if len(sizes) == 3 else 0  # a box in the middle of a video is in all of its frames
    middle: Box = (slice(None),) * first
    border, boxes = middle, dict[str, tuple[Box, ...]]()
    for number, (pair, size) in enumerate(zip(names, sizes, strict=True)):
        kept = config.frames if pair == TIME and config.frames is not None else round(size * config.share)
        before: Box = (slice(None),) * number
        both = ((*before, slice(kept)), (*before, slice(max(size - kept, 0), None)))
        boxes |= {name: (box,) for name, box in zip(pair, both, strict=True) if name not in ALONG or len(sizes) == 2}
        if pair == TIME:
            each = kept if config.frames is not None else max(kept // 2, 1)
            boxes["ends"] = ((slice(each),), (slice(max(size - each, 0), None),))
        if number >= first:
            start = (size - kept) // 2
            middle += (slice(start, start + kept),)
            border += (slice(kept - kept // 2, size - kept // 2),)
    return boxes | {"middle": (middle,), "border": (border,)}


def open_codes(hole_HW: Tensor, prior: Prior) -> Tensor:
    """Which codes the prior draws for a hole, open_N bool; UserError for codes without a place."""
    if len(prior.source.grid) != hole_HW.ndim:
        raise UserError(f"codes of {prior.source} have no place in the picture, so no part of it can be kept")
    return prior.open_codes(hole_HW)


def half_kept(hole: Tensor, source: CodeSource) -> str:
    """Which kept frames of a video are drawn anew because their codes reach into the hole, in words; empty for none."""
    if hole.ndim < 3:
        return ""
    open_T = hole.flatten(1).any(1)
    parts = open_T.split(frames_of_codes(len(hole), source.grid[0]))
    lost = sum(int((~part_T).sum()) for part_T in parts if part_T.any())
    ends = ", ".join(str(sum(map(len, parts[: number + 1]))) for number in range(len(parts) - 1))
    what = f"{lost} of {int((~open_T).sum())} kept frames share a code with drawn ones and are drawn too"
    return f"{what}: codes end after {ends} frames" if lost else ""


def check_hole(prior: Prior, open_N: Tensor, config: InpaintConfig) -> None:
    """UserError for an empty or full hole, and for kept codes after the hole that the prior can't attend to."""
    much = f"share={config.share:g}" if config.frames is None else f"frames={config.frames}"
    what = f"mask={config.mask}" if config.mask else f"keep={config.keep} with {much}"
    if open_N.all() or not open_N.any():
        way = "paint other parts white" if config.mask else f"choose another {much.split('=')[0]}"
        raise UserError(f"{what} leaves {'no code' if open_N.all() else 'all codes'} in place: {way}")
    if prior.in_order:
        place_P = open_N[: len(open_N) // prior.source.codebooks]
        if not place_P[int(place_P.int().argmax()) :].all():
            in_time = prior.source.kind != "pictures"
            way = "paint only the lower rows white" if config.mask else f"set keep to {'start' if in_time else 'top'}"
            raise UserError(
                f"{what} keeps codes after the hole, but a prior of kind {prior.kind} draws "
                f"{'from start to end' if in_time else 'row by row'} and doesn't attend to them: {way}, or use a "
                f"masked{'' if in_time else ' or multiscale'} prior"
            )
