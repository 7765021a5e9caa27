"""Sampling pictures (or other samples) into a folder, batch by batch, which any number of ranks can continue.

Shapes: B batch, N codes, h w their grid."""

import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.media import read_transform
from launch.command.cli import UserError
from launch.files.atomic import write_file
from launch.files.outputs import output
from launch.ranks.transfer import to_device
from stage1_tokenizer import Tokenizer
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.codes.source import code_type
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.sampling import SampleConfig
from stage2_prior.priors.base import Prior, weights_hash
from stage2_prior.sampling.conditions import Classes, Subjects
from stage2_prior.sampling.sliding import Sliding
from stage2_prior.sampling.writing import Files, Writers

GRID_ROWS, GRID_COLUMNS, GRID_GAP = 50, 10, 2

PLACES = ("prior", "tokenizer", "out", "part", "parts", "prompt", "prompts", "text_encoder", "dry_run", "given", "mask")
"""Settings that say where things are and how the work is shared; samples.json says what they are instead."""


@dataclass(frozen=True)
class Picture:
    """One picture to sample: number `number` of class `label` (-1: no class)."""

    label: int
    number: int


def uniforms(seed: int, pictures: Sequence[Picture], draws: int) -> Tensor:
    """All randomness of some pictures, uniform_BN float32 in [0, 1): each row a function of (seed, class, number)."""
    rows = []
    for picture in pictures:
        words = np.random.SeedSequence([seed, picture.label + 1, picture.number])
        rows.append(np.random.Generator(np.random.Philox(words)).random(draws, dtype=np.float32))
    return torch.from_numpy(np.stack(rows))


def sample_codes(
    prior: Prior,
    pictures: Sequence[Picture],
    seed: int,
    drawing: Drawing,
    subjects: Subjects | None = None,
    slide: tuple[Sliding, Tokenizer] | None = None,
) -> Tensor:
    """Codes of some pictures, idx_Bhw int64 (or in the tokenizer's form), drawn together on the prior's device.

    The pictures' labels are those of `subjects`, by default classes. To `slide`, by a tokenizer, gives several windows,
    (B, W, …), of which the first is that without sliding.
    """
    subjects, labels = subjects or Classes(prior, None), [picture.label for picture in pictures]
    draws, windows = prior.draws(drawing), slide[0].windows if slide else 1
    uniform_BX = to_device(uniforms(seed, pictures, windows * draws), next(prior.parameters()).device)
    token_B, given_BN, found = subjects.tokens(labels), subjects.given(labels), list[Tensor]()
    for uniform_BU in uniform_BX.split(draws, dim=1):
        if slide and found:
            given_BN = slide[0].given(slide[1], found[-1])
        code_BN = prior.sample(token_B, uniform_BU.contiguous(), drawing, given_BN)
        found.append(code_BN.unflatten(1, prior.source.shape))
    return torch.stack(found, dim=1) if slide else found[0]


class Sampling:
    """One sampling: its batches and its folder."""

    def __init__(self, config: SampleConfig, prior: Prior, subjects: Subjects):
        self.config, self.prior, self.subjects = config, prior, subjects
        self.out, self.kind = Path(config.out), sample_kind(prior.source.kind)
        for name, own in (("npz", "pictures"), ("mp4", "videos")):
            if getattr(config, name) and self.kind.name != own:
                raise UserError(f"{name}=true is for {own}, but the prior is of {self.kind.name}: leave it out")
        self.sliding = Sliding.of(config, prior.source)
        self.weights = weights_hash(prior)
        self.labels, self.folders = self.subjects.labels, self.subjects.folders
        if config.guidance != 1 and not self.subjects.guidable:
            raise UserError(
                f"guidance={config.guidance:g} needs {prior.condition.what}, and there are none: leave it at 1"
            )
        pictures = [Picture(label, number) for number in range(config.count) for label in self.labels]
        size = config.batch_size
        self.batches = [pictures[start : start + size] for start in range(0, len(pictures), size)]

    def path(self, picture: Picture) -> Path:
        """The file of a picture."""
        return self.out / self.folders[picture.label] / f"{picture.number:05d}{self.kind.suffix}"

    def codes_path(self, batch: int) -> Path:
        """The file of a batch's codes."""
        return self.out / "codes" / f"{batch:06d}.npy"

    def done(self, batch: int) -> bool:
        """Whether a batch's codes and pictures are complete."""
        return self.codes_path(batch).exists() and all(self.path(picture).exists() for picture in self.batches[batch])

    def missing(self, part: int = 0, parts: int = 1) -> list[int]:
        """The batches of a part of the sampling that are not complete yet."""
        return [batch for batch in range(part, len(self.batches), parts) if not self.done(batch)]

    def describe(self) -> dict[str, Any]:
        """samples.json without the results."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in PLACES}
        return {
            "settings": settings,
            "tokenizer": self.prior.source.tokenizer,
            "prior_weights": self.weights,
            **self.subjects.about(),
            "grid": list(self.prior.source.grid),
            "classes": self.subjects.described(self.config.count),
            "order": "picture i of all batches is number i // C of class i % C, C classes as listed",
        }

    def plan(self) -> str:
        """The sampling in a line, for a dry run."""
        missing = sum(len(self.batches[batch]) for batch in self.missing())
        halves = ", both guidance halves" if self.config.guidance != 1 else ""
        what = self.kind.name
        return (
            f"{len(self.labels)} {self.subjects.what} × {self.config.count} {what} in {len(self.batches)} batches of "
            f"{self.config.batch_size}, {missing} of them not there yet; {self.prior.kind} prior, "
            f"{self.prior.source.positions} codes a {what[:-1]}{halves}; to {self.out}"
        )

    def begin(self) -> None:
        """Create the folders and samples.json; UserError if the folder holds another sampling."""
        described, file = self.describe(), self.out / "samples.json"
        if file.exists():
            there = json.loads(file.read_text())
            added = {field.name: field.default for field in fields(self.config) if field.default is not MISSING}
            settings = {**added, **there.get("settings", {})}  # what older versions don't state was the default
            there["settings"] = {key: value for key, value in settings.items() if key not in PLACES}
            later = ("prior_weights", *self.subjects.about())  # older versions don't state them
            wrong = [
                key for key, value in described.items() if there.get(key, ...) not in (value, *[...] * (key in later))
            ]
            if wrong:
                raise UserError(f"out={self.out} holds samples with another {wrong[0]}: choose another folder")
        elif self.out.exists() and any("samples.json" not in there.name for there in self.out.iterdir()):
            raise UserError(f"out={self.out} isn't empty and holds no samples.json: choose another folder")
        self.out.mkdir(parents=True, exist_ok=True)
        if not file.exists():  # first, as another part of the same sampling may begin at the same time
            write_file(file, json.dumps(described, indent=1) + "\n")
        for folder in (*self.folders.values(), "codes"):
            (self.out / folder).mkdir(exist_ok=True)

    def draw(self, batch: int, writers: Writers) -> None:
        """Sample one batch and let it be written; it is padded to the full size, as rounding depends on it."""
        pictures = self.batches[batch]
        padded = [pictures[i % len(pictures)] for i in range(self.config.batch_size)]
        slide = (self.sliding, writers.decoder) if self.sliding else None
        idx_Bhw = sample_codes(self.prior, padded, self.config.seed, self.config, self.subjects, slide)
        kind = np.dtype(code_type(self.prior.vocabulary.codebook_size))
        files = Files(self.out, [self.path(picture) for picture in pictures], self.codes_path(batch), kind)
        writers.put(idx_Bhw[: len(pictures)], files)

    def finish(self, seconds: float, drawn: int) -> None:
        """Write grid.png, the subjects' samples, the results and, if requested, samples.npz."""
        with output(self.out):
            self._show()
        what = self.kind.name
        results: dict[str, Any] = {what: sum(map(len, self.batches)), "complete": True}
        if drawn:
            results |= {"seconds": round(seconds, 3), f"{what}_per_second": round(drawn / seconds, 3)}
        write_file(self.out / "samples.json", json.dumps(self.describe() | results, indent=1) + "\n")

    def _show(self) -> None:
        """Write the subjects' samples, grid.png and, if requested, samples.npz."""
        for label, folder in self.folders.items():
            for name, sample in self.subjects.shown(label).items():
                sample.save(self.out / folder / f"{name}{self.kind.suffix}")
        columns = range(min(self.config.count, GRID_COLUMNS))
        shown = []
        for label in self.labels[:GRID_ROWS]:
            samples = (self.kind.written(self.path(Picture(label, number))) for number in columns)
            shown.append([*map(self.kind.picture, self.subjects.shown(label).values()), *samples])
        picture_grid(shown).save(self.out / "grid.png")
        if self.kind.moving_grid is not None:
            self._show_moving(self.kind.moving_grid, columns)
        if self.config.npz:
            files = [self.path(picture) for batch in self.batches for picture in batch]
            pixels = [np.asarray(Image.open(file).convert("RGB")) for file in files]
            np.savez(self.out / "samples.npz", np.stack(pixels))

    def _show_moving(self, moving_grid: Callable[[Sequence[Sequence[Any]]], bytes], columns: Sequence[int]) -> None:
        """Write grid.webp, the grid of what moves, and if requested the samples as .mp4."""
        assert self.kind.load is not None
        transform: Any = read_transform(self.prior.source.transform)
        rows = []
        for label in self.labels[:GRID_ROWS]:
            files = [self.path(Picture(label, number)) for number in columns]
            rows.append([*self.subjects.shown(label).values(), *(self.kind.load(each, transform) for each in files)])
        write_file(self.out / "grid.webp", moving_grid(rows))
        for picture in (picture for batch in self.batches if self.config.mp4 for picture in batch):
            self.kind.load(self.path(picture), transform).save_film(self.path(picture).with_suffix(".mp4"))


def picture_grid(images: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """The pictures in rows and columns on a white background."""
    width, height = images[0][0].size
    step_x, step_y = width + GRID_GAP, height + GRID_GAP
    grid = Image.new(images[0][0].mode, (len(images[0]) * step_x - GRID_GAP, len(images) * step_y - GRID_GAP), "white")
    for y, row in enumerate(images):
        for x, image in enumerate(row):
            grid.paste(image, (x * step_x, y * step_y))
    return grid
