"""Sample pictures: `accelerate launch -m stage2_prior.sample --prior RUN --tokenizer DIR --out OUT --count 10 …`.

OUT/<class>/<number>.png   the pictures, `count` of each class (or prompt)
OUT/codes/<batch>.npy      their codes, uint16 or uint32 (B, h, w) or the tokenizer's form; there once a batch is done
OUT/grid.png               a row for each class (or prompt)
OUT/samples.json           settings, tokenizer, classes and their folders, the order of the pictures in the batches

A picture's randomness is a function of (seed, class, number), and the batches are cut alike on any number of ranks, so
that any world size gives the same pictures, also after an interruption. Shapes: B batch, N codes, h w their grid.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from launch.command.cli import UserError, parse, run
from launch.command.progress import Progress
from launch.command.words import as_options
from launch.files.atomic import write_file
from launch.ranks.joined import joined
from stage2_prior.codes.source import code_type
from stage2_prior.generation.logits import Drawing
from stage2_prior.priors.build import load_prior
from stage2_prior.sampling.conditions import Classes, Prompts, Subjects, prompts_of

if TYPE_CHECKING:
    from stage1_tokenizer import Tokenizer
    from stage2_prior.priors.base import Prior

GRID_ROWS, GRID_COLUMNS, GRID_GAP = 50, 10, 2


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Drawing):
    """Sample pictures of every class."""

    prior: str
    """A finished run's folder or a released prior."""
    tokenizer: str
    """The released tokenizer whose codes the prior was trained on; another one is refused."""
    out: str
    """Folder for the pictures; an interrupted sampling there is continued."""
    count: int = 10
    """Pictures of each class."""
    classes: list[str] | None = None
    """Names or numbers of the classes to sample, none for pictures of no class; null for all classes."""
    prompt: str | None = None
    """A text to sample pictures of, with a prior trained with model.condition=text."""
    prompts: str | None = None
    """A file of such texts, one a line; `count` pictures of each."""
    text_encoder: str | None = None
    """Where the frozen text encoder lies, if not where it lay in training."""
    seed: int = 0
    """Seed; with the class and the picture's number it decides everything random."""
    batch_size: int = 64
    """Pictures drawn at once on each rank. Other sizes give the same pictures up to rounding."""
    decode_batch: int = 16
    """Pictures decoded at once."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the prior."""
    compile: bool = False
    """Draw by a compiled step that is one CUDA graph, after a minute or more of compiling; for one token at a time."""
    npz: bool = False
    """Also write OUT/samples.npz (arr_0, uint8 NHWC), which the ADM evaluation suite reads."""
    part: int = 0
    """Which of `parts` this is, from 0."""
    dry_run: bool = False
    """Say what would be drawn, and draw nothing (--dry-run true is the same)."""
    parts: int = 1
    """Share the batches out to so many jobs; the same command without parts then completes the set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = [name for name in ("classes", "prompt", "prompts") if getattr(self, name) is not None]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} are both set: leave one of them out")
        for name in ("count", "batch_size", "decode_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: set it to 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} is negative: set it to 0 or more")
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part={self.part} is none of parts={self.parts}: count from 0 to {self.parts - 1}")


@dataclass(frozen=True)
class Picture:
    """One picture to sample: the number'th of its class (label -1: of no class)."""

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
    prior: Prior, pictures: Sequence[Picture], seed: int, drawing: Drawing, subjects: Subjects | None = None
) -> Tensor:
    """Codes of some pictures, idx_Bhw int64 (or in their tokenizer's other form), drawn together on its device.

    The pictures' labels are classes, where no other `subjects` are named.
    """
    subjects, labels = subjects or Classes(prior, None), [picture.label for picture in pictures]
    uniform_BU = uniforms(seed, pictures, prior.draws(drawing)).to(next(prior.parameters()).device)
    code_BN = prior.sample(subjects.tokens(labels), uniform_BU, drawing, subjects.given(labels))
    return code_BN.unflatten(1, prior.source.shape)


@torch.inference_mode()
def decode_pictures(tokenizer: Tokenizer, idx_Bhw: Tensor, batch: int) -> list[Image.Image]:
    """The pictures of some code grids."""
    pictures: list[Image.Image] = []
    for part_Bhw in idx_Bhw.split(batch):
        pictures += tokenizer.to_pil(tokenizer.decode(part_Bhw))
    return pictures


class Sampling:
    """One sampling: what is drawn in which batch, and where it lies."""

    def __init__(self, config: SampleConfig, prior: Prior, subjects: Subjects | None = None):
        self.config, self.prior = config, prior
        self.out = Path(config.out)
        texts = prompts_of(config.prompt, config.prompts)
        self.subjects = subjects or (Prompts(prior, texts) if texts else Classes(prior, config.classes))
        self.labels, self.folders = self.subjects.labels, self.subjects.folders
        if config.guidance != 1 and not self.subjects.guidable:
            lacking = "classes" if prior.text is None else "prompts"
            raise UserError(f"guidance={config.guidance:g} needs {lacking}, and there are none: leave it at 1")
        pictures = [Picture(label, number) for number in range(config.count) for label in self.labels]
        size = config.batch_size
        self.batches = [pictures[start : start + size] for start in range(0, len(pictures), size)]

    def path(self, picture: Picture) -> Path:
        """Where a picture lies."""
        return self.out / self.folders[picture.label] / f"{picture.number:05d}.png"

    def codes_path(self, batch: int) -> Path:
        """Where a batch's codes lie."""
        return self.out / "codes" / f"{batch:06d}.npy"

    def done(self, batch: int) -> bool:
        """Whether a batch's codes and pictures are there."""
        return self.codes_path(batch).exists() and all(self.path(picture).exists() for picture in self.batches[batch])

    def describe(self) -> dict[str, Any]:
        """samples.json without the results."""
        places = ("prior", "tokenizer", "out", "part", "parts", "prompt", "prompts", "text_encoder", "dry_run")
        settings = {name: value for name, value in asdict(self.config).items() if name not in places}
        return {
            "settings": settings,
            "tokenizer": self.prior.source.tokenizer,
            "grid": list(self.prior.source.grid),
            "classes": self.subjects.described(self.config.count),
            "order": "picture i of all batches is number i // C of class i % C, C classes as listed",
        }

    def plan(self) -> str:
        """What would be drawn, in a line."""
        missing = sum(len(pictures) for i, pictures in enumerate(self.batches) if not self.done(i))
        halves = ", both guidance halves" if self.config.guidance != 1 else ""
        return (
            f"{len(self.labels)} {self.subjects.what} × {self.config.count} pictures in {len(self.batches)} batches of "
            f"{self.config.batch_size}, {missing} of them not there yet; {self.prior.kind} prior, "
            f"{self.prior.source.positions} codes a picture{halves}; to {self.out}"
        )

    def begin(self) -> None:
        """Make the folders and samples.json; UserError where another sampling lies there."""
        described, file = self.describe(), self.out / "samples.json"
        if file.exists():
            there = json.loads(file.read_text())
            wrong = [key for key, value in described.items() if there.get(key) != value]
            if wrong:
                raise UserError(f"out={self.out} holds samples with another {wrong[0]}: choose another folder")
        elif self.out.exists() and any("samples.json" not in there.name for there in self.out.iterdir()):
            raise UserError(f"out={self.out} isn't empty and holds no samples.json: choose another folder")
        self.out.mkdir(parents=True, exist_ok=True)
        if not file.exists():  # before the folders: another part of the same sampling may begin just now
            write_file(file, json.dumps(described, indent=1) + "\n")
        for folder in (*self.folders.values(), "codes"):
            (self.out / folder).mkdir(exist_ok=True)

    def draw(self, batch: int, tokenizer: Tokenizer) -> None:
        """Draw and decode one batch and write it; always full, so that its size never differs."""
        pictures = self.batches[batch]
        padded = [pictures[i % len(pictures)] for i in range(self.config.batch_size)]
        idx_Bhw = sample_codes(self.prior, padded, self.config.seed, self.config, self.subjects)
        idx_Bhw = idx_Bhw[: len(pictures)]
        for picture, image in zip(pictures, decode_pictures(tokenizer, idx_Bhw, self.config.decode_batch), strict=True):
            image.save(self.path(picture))
        part = self.codes_path(batch).with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, idx_Bhw.cpu().numpy().astype(code_type(self.prior.vocabulary.codebook_size)))
        part.replace(self.codes_path(batch))

    def finish(self, seconds: float, drawn: int) -> None:
        """Write grid.png, what else is shown, samples.npz if asked for, and the results."""
        for label, folder in self.folders.items():
            for name, image in self.subjects.shown(label).items():
                image.save(self.out / folder / f"{name}.png")
        rows = self.labels[:GRID_ROWS]
        columns = range(min(self.config.count, GRID_COLUMNS))
        shown = [
            [
                *self.subjects.shown(label).values(),
                *(Image.open(self.path(Picture(label, number))) for number in columns),
            ]
            for label in rows
        ]
        picture_grid(shown).save(self.out / "grid.png")
        if self.config.npz:
            files = [self.path(picture) for batch in self.batches for picture in batch]
            np.savez(
                self.out / "samples.npz", np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
            )
        results: dict[str, Any] = {"pictures": sum(map(len, self.batches)), "complete": True}
        if drawn:
            results |= {"seconds": round(seconds, 3), "pictures_per_second": round(drawn / seconds, 3)}
        write_file(self.out / "samples.json", json.dumps(self.describe() | results, indent=1) + "\n")


def picture_grid(images: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """The pictures in rows and columns on white."""
    width, height = images[0][0].size
    step_x, step_y = width + GRID_GAP, height + GRID_GAP
    grid = Image.new(images[0][0].mode, (len(images[0]) * step_x - GRID_GAP, len(images) * step_y - GRID_GAP), "white")
    for y, row in enumerate(images):
        for x, image in enumerate(row):
            grid.paste(image, (x * step_x, y * step_y))
    return grid


def sample(config: SampleConfig, subjects: Callable[[Prior, Tokenizer], Subjects] | None = None) -> int:
    """Sample as configured, on all ranks; the exit code. `subjects` makes what is drawn, where it isn't classes."""
    from stage1_tokenizer import Tokenizer

    prior = load_prior(config.prior, text_encoder=config.text_encoder)
    sampling = Sampling(config, prior) if subjects is None else None
    if config.compile and not (prior.one_by_one and torch.cuda.is_available()):
        raise UserError(
            "compile=true is for autoregressive and depth priors on CUDA GPUs; this prior is of the kind "
            f"{prior.kind}, and there are {torch.cuda.device_count()} such GPUs: leave it false"
        )
    prior.compiled_steps = config.compile
    tokenizer = Tokenizer.from_pretrained(config.tokenizer).eval()
    prior.source.must_be_of(tokenizer.fingerprint, "tokenizer", config.tokenizer)
    if subjects is not None:
        sampling = Sampling(config, prior, subjects(prior, tokenizer))
    assert sampling is not None
    if config.dry_run:
        print(sampling.plan())
        return 0
    with joined() as accelerator:
        from launch.ranks.vote import on_main

        on_main(accelerator, sampling.begin)
        prior.to(accelerator.device, torch.bfloat16 if config.precision == "bf16" else torch.float32)
        tokenizer.to(accelerator.device)
        # Counted alike on every rank before any of them writes.
        mine = range(config.part, len(sampling.batches), config.parts)
        todo = [batch for batch in mine if not sampling.done(batch)]
        accelerator.wait_for_everyone()
        total = sum(len(sampling.batches[batch]) for batch in todo)
        began = time.monotonic()
        with Progress("sample", total, unit="pictures", enabled=accelerator.is_main_process) as bar:
            for turn in range(0, len(todo), accelerator.num_processes):
                own = turn + accelerator.process_index
                if own < len(todo):
                    sampling.draw(todo[own], tokenizer)
                bar.advance(
                    sum(len(sampling.batches[batch]) for batch in todo[turn : turn + accelerator.num_processes])
                )
        accelerator.wait_for_everyone()
        if accelerator.is_main_process and config.parts == 1:
            sampling.finish(time.monotonic() - began, total)
    return 0


def main() -> int:
    """The command."""
    return sample(parse(SampleConfig, spelled(sys.argv[1:]), prog="python -m stage2_prior.sample"))


def spelled(words: Sequence[str]) -> list[str]:
    """The words of a command line with --dry-run as the setting is called; alone it is true."""
    return as_options([re.sub("^--dry-run", "--dry_run", word) for word in words], (), SampleConfig)


if __name__ == "__main__":
    run(main)
