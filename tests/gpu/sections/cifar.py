"""Section 6: CIFAR-10 through both stages by the real commands, from tars to samples that a classifier judges."""

from __future__ import annotations

import io
import json
import signal
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from launch.checkpoints import folders
from launch.command.exit_codes import STOPPED
from tests.gpu.sections.bench import ROOT, Bench
from tests.gpu.sections.commands import launched

SHARES = {"tokenizer": 0.42, "prior": 0.24}
"""Of the section's time: each training's, its start and its last evaluation included."""
GROUP = "CIFAR-10"
GRACE = 45.0
"""Seconds that a training may take for its last checkpoint once it is asked to stop."""


def cifar(bench: Bench) -> None:
    """Each command in turn, those that can beside each other. A command that fails ends the section."""
    limit = bench.left()
    with bench.folder() as folder:
        Chain(bench, folder, limit).all()


class Chain:
    """The commands of one chain, and its folder."""

    def __init__(self, bench: Bench, folder: Path, limit: float):
        self.bench, self.folder, self.limit = bench, folder, limit
        self.lpips = bench.gathered_file("alexnet.ckpt")

    def all(self) -> None:
        """From tars to figures."""
        began = time.monotonic()
        words, text = self.data()
        self.commands({f"data.index {name}": [*line, "--classes", text] for name, line in words.items()})
        self.row("tars and indexes", seconds=time.monotonic() - began)
        self.train("tokenizer", "stage1_tokenizer.train", self.tokenizer_words())
        run, released, figures, lines = self.path("tokenizer-run"), self.path("tokenizer"), "evaluated.json", {}
        self.commands({"stage1_tokenizer.evaluate": self.evaluate_words(run, figures)})
        self.row("tokenizer, held-out pictures", **self.figures(figures, "psnr", "lpips", "codebook_usage"))
        words = [run, released, "--licence=mit", f"--metrics={self.path(figures)}"]
        self.commands({"stage1_tokenizer.release": words})
        for name in ("train", "test"):
            given = [f"--tokenizer={released}", f"--data={self.index(name)}", f"--out={self.path('codes-' + name)}"]
            lines[f"stage2_prior.encode {name}"] = [*given, *(["--batch_size=8"] if self.bench.rehearse else [])]
        self.commands(lines)
        self.train("prior", "stage2_prior.train", self.prior_words(released))
        self.sampled(released)

    def sampled(self, released: str) -> None:
        """Samples and their figures."""
        prior, samples, began = self.path("prior-run"), self.path("samples"), time.monotonic()
        count = 1 if self.bench.rehearse else 100
        words = [f"--prior={prior}", f"--tokenizer={released}", f"--out={samples}", f"--count={count}", "--guidance=2"]
        words += [] if self.bench.rehearse else ["--precision=bf16", "--batch_size=250"]
        self.commands({"stage2_prior.sample": words})
        self.row("samples", pictures=10 * count, seconds=time.monotonic() - began)
        words = [f"--prior={prior}", f"--codes={self.path('codes-test')}/index.json", "--features=none"]
        words += [f"--samples={samples}", f"--data={self.index('train')}", f"--held_out={self.index('test')}"]
        words += [f"--out={self.path('judged.json')}", *(["--limit=40"] if self.bench.rehearse else ["--limit=5000"])]
        self.commands({"stage2_prior.evaluate": words})
        names = ("bits_per_code", "accuracy", "class_agreement", "classifier_accuracy")
        self.row("prior and samples", **self.figures("judged.json", *names))

    def path(self, name: str) -> str:
        """A place in the folder."""
        return str(self.folder / name)

    def index(self, name: str) -> str:
        """The index of a part of the pictures."""
        return self.path(f"{name}.json")

    def row(self, name: str, **values: Any) -> None:
        """A result."""
        self.bench.row(GROUP, name, **values)

    def data(self) -> tuple[dict[str, list[str]], str]:
        """WebDataset tars from the gathered pictures, or from made-up ones; the options of data.index, the classes."""
        found = self.bench.gathered_file("cifar10-jpeg.tar.gz")
        if found is None and not self.bench.rehearse:
            raise FileNotFoundError("CIFAR-10 wasn't gathered")
        made_up = found is None or self.bench.rehearse
        classes = as_tars(made_up_pictures() if made_up else pictures(found), self.folder)  # type: ignore[arg-type]
        (self.folder / "classes.txt").write_text("\n".join(classes) + "\n")
        lines = {name: [f"{self.folder}/{name}-*.tar", self.index(name)] for name in ("train", "test")}
        return lines, self.path("classes.txt")

    def tokenizer_words(self) -> list[str]:
        """The recipe, with LPIPS on AlexNet if its weights were gathered, and a discriminator that begins early."""
        recipe = str(ROOT / "launch" / "recipes" / "cifar10" / "tokenizer.yaml")
        words = ["--config", recipe, f"--data.index={self.index('train')}", f"--data.held_out={self.index('test')}"]
        words += ["--optimizer.decay=constant", "--optimizer.warmup=200", "--loss.adversarial.start=2000"]
        words += ["--compile=false"]  # there is no time for it
        words += ["--loss.adversarial.ramp=1000", "--evaluate_every=1000000", "--run.save_every=1000000"]
        if self.lpips is None:
            words += ["--loss.perceptual.weight=0"]
        else:
            words += ["--loss.perceptual.net=alex", f"--loss.perceptual.weights={self.lpips}"]
        if self.bench.rehearse:
            words += ["--model.channels=8", "--model.z_channels=8", "--model.res_blocks=1", "--data.batch_size=8"]
            words += ["--evaluate_samples=8", "--run.precision=fp32", "--model.quantizer.codebook_size=32"]
        return words

    def prior_words(self, released: str) -> list[str]:
        """The recipe at a constant rate."""
        recipe = str(ROOT / "launch" / "recipes" / "cifar10" / "prior.yaml")
        words = ["--config", recipe, f"--tokenizer={released}", f"--data.index={self.path('codes-train')}/index.json"]
        words += [f"--data.held_out={self.path('codes-test')}/index.json", "--optimizer.decay=constant"]
        words += ["--optimizer.warmup=200", "--evaluate_every=1000000", "--run.save_every=1000000"]
        words += ["--run.allow_changes=[steps]", "--compile=false"]
        if self.bench.rehearse:
            words += ["--model.layers=1", "--model.width=32", "--model.heads=2", "--data.batch_size=8"]
            words += ["--run.precision=fp32"]
        return words

    def evaluate_words(self, run: str, figures: str) -> list[str]:
        """PSNR, SSIM, codebook, LPIPS on AlexNet; no distances, whose networks' weights are too large to gather."""
        words = [f"--tokenizer={run}", f"--data={self.index('test')}", f"--out={self.path(figures)}"]
        how = ["--lpips=false"] if self.lpips is None else ["--lpips_net=alex", f"--lpips_weights={self.lpips}"]
        return [*words, "--features=none", f"--pictures={self.path('reconstructions.png')}", *how]

    def train(self, stage: str, module: str, words: list[str]) -> None:
        """Train for a share of the time, then ask to stop. A prior then ends at that step, and is exported."""
        run = self.path(f"{stage}-run")
        words = [
            *words,
            f"--run.folder={run}",
            "--run.trackers=[]",
            *(["--run.log_every=1"] if self.bench.rehearse else []),
        ]
        began, share = time.monotonic(), 0.3 if self.bench.rehearse else SHARES[stage] * self.limit
        self.until(module, [*words, "--steps=10000000"], share, Path(run))
        step = folders.steps(Path(run))[0]
        if stage == "prior":
            self.commands({module: [*words, f"--steps={step}"]})
        lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
        rates = [value for line in lines for key, value in line.items() if key == "rate/pictures_per_second"]
        mfu = [line["rate/mfu"] for line in lines if "rate/mfu" in line]
        known = {"pictures_per_s": rates[-1] if rates else None, **({"mfu": mfu[-1]} if mfu else {})}
        self.row(f"training the {stage}", steps=step, seconds=time.monotonic() - began, **known)

    def until(self, module: str, words: list[str], seconds: float, run: Path) -> None:
        """Start a training, and stop it by SIGTERM: it saves and ends with its exit code for that."""
        running = launched(module, words, self.log(module), fork=self.bench.rehearse)
        deadline = time.monotonic() + seconds
        while running.poll() is None and not (time.monotonic() > deadline and begun(run)):
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        code = running.wait(GRACE * (4 if self.bench.rehearse else 1))
        if code != STOPPED:
            raise RuntimeError(f"{module} ended with {code}: {self.last_words(module)}")

    def commands(self, lines: dict[str, list[str]]) -> None:
        """Run commands beside each other; RuntimeError if one fails. A name is a module, and what tells it apart."""
        running = {}
        for name, words in lines.items():
            module = name.split()[0]
            running[name] = launched(module, words, self.log(name), fork=self.bench.rehearse)
            if self.bench.rehearse:
                running[name].wait()  # one core
        for name, one in running.items():
            if code := one.wait():
                raise RuntimeError(f"{name} ended with {code}: {self.last_words(name)}")

    def log(self, name: str) -> Path:
        """Where a command's output goes."""
        return self.bench.out / f"{name.replace(' ', '-')}.log"

    def last_words(self, name: str) -> str:
        """The last line that a command wrote."""
        return (self.log(name).read_text().strip().splitlines() or ["no output"])[-1]

    def figures(self, file: str, *names: str) -> dict[str, Any]:
        """Figures of a result, those that are there."""
        found = flat(json.loads(Path(self.path(file)).read_text()))
        return {name: found[name] for name in names if isinstance(found.get(name), int | float)}


def begun(run: Path) -> bool:
    """Whether a training has taken a step: its metrics are written from its first log line on."""
    return (run / "metrics.jsonl").exists()


def flat(value: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries as one; inner names win over none."""
    found = {key: part for key, part in value.items() if not isinstance(part, dict)}
    for part in value.values():
        found |= flat(part) if isinstance(part, dict) else {}
    return found


def pictures(path: Path) -> Iterable[tuple[str, str, bytes]]:
    """Part, class and JPEG of each picture of a tar with train/CLASS/NUMBER.jpg and test/…"""
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:
            part, *rest = member.name.removeprefix("./").split("/")
            if member.isfile() and len(rest) == 2 and (file := tar.extractfile(member)) is not None:
                yield part, rest[0], file.read()


def made_up_pictures() -> Iterable[tuple[str, str, bytes]]:
    """A few, for rehearsals: ten classes of grey."""
    random = np.random.default_rng(0)
    for number in range(60):
        pixels_HWC = random.integers(0, 60, (32, 32, 3), dtype=np.uint8) + np.uint8(19 * (number % 10))
        jpeg = io.BytesIO()
        Image.fromarray(pixels_HWC).save(jpeg, "jpeg", quality=95)
        yield "train" if number < 40 else "test", f"class{number % 10}", jpeg.getvalue()


def as_tars(found: Iterable[tuple[str, str, bytes]], folder: Path, size: int = 10_000) -> list[str]:
    """Write train-*.tar and test-*.tar, pictures of all classes mixed; the classes' names in their order."""
    by_class: dict[str, dict[str, list[bytes]]] = defaultdict(lambda: defaultdict(list))
    for part, name, jpeg in found:
        by_class[part][name].append(jpeg)
    classes = sorted(by_class["train"])
    for part, of_class in by_class.items():
        every = [(classes.index(name), jpeg) for name, jpegs in of_class.items() for jpeg in jpegs]
        order = np.random.default_rng(0).permutation(len(every))
        for first in range(0, len(every), size):
            with tarfile.open(folder / f"{part}-{first // size:06d}.tar", "w") as tar:
                for number in order[first : first + size]:
                    label, jpeg = every[number]
                    add(tar, f"{number:06d}.jpg", jpeg)
                    add(tar, f"{number:06d}.cls", str(label).encode())
    return classes


def add(tar: tarfile.TarFile, name: str, contents: bytes) -> None:
    """One file of a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(contents)
    tar.addfile(info, io.BytesIO(contents))
