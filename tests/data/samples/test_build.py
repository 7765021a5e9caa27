"""The sample sets that ship with the project: whole, labelled, split, small; and how they are made."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.config import TextDataConfig
from data.inspecting.verify import verify
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample, every_sample_of
from data.samples.build import main, on_white
from data.samples.debian import members
from data.samples.packages import Package, contents
from data.samples.prose import plain
from data.samples.sample_set import SampleSet, write
from data.samples.speech import contents as package_files
from data.samples.speech import texts_of, trimmed
from data.shards.loading import load_index
from data.sounds.config import SoundConfig
from launch.command.cli import UserError

SETS = Path(__file__).parents[3] / "data/samples"


LICENCE = {
    "mnist": "Permission is hereby granted",
    "emoji": "Permission is hereby granted",
    "moving_emoji": "Permission is hereby granted",
    "speech": "Changes: prompts",
    "prose": "It is in the public domain",
}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mnist", (9000, 1000)),
        ("emoji", (3036, 337)),
        ("moving_emoji", (174, 19)),
        ("speech", (878, 97)),
        ("prose", (234, 26)),
    ],
)
def test_the_sets_are_whole(name: str, sizes: tuple[int, int]) -> None:
    assert (SETS / name / "LICENSE").read_text().count(LICENCE[name]) == 1
    for split, size in zip(("train", "held_out"), sizes, strict=True):
        index = load_index(SETS / name / f"{split}.json")
        assert len(index) == size == sum(index.meta["counts"])
        assert len(index.shards) >= 2, "two processes have a shard each"
        assert all((SETS / name / s.url).stat().st_size == s.filesize for s in index.shards)


def test_they_are_small() -> None:
    files = [path for path in SETS.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert max(path.stat().st_size for path in files) < 3e6


@pytest.mark.parametrize("name", ["mnist", "emoji", "moving_emoji", "speech"])
def test_held_out_samples_are_sound_and_stratified(name: str) -> None:
    held_out = load_index(SETS / name / "held_out.json")
    train = load_index(SETS / name / "train.json")
    found = verify(held_out)
    assert found.sound and not found.duplicates and not found.misnamed
    for out, of_train in zip(held_out.meta["counts"], train.meta["counts"], strict=True):
        assert abs(out - (out + of_train) / 10) < (3 if name == "speech" else 1)  # which is split by prompts


def test_shards_are_mixed_and_splits_disjoint() -> None:
    recipe = TransformConfig(size=28, channels=1)
    batches = {
        split: list(every_sample(str(SETS / f"mnist/{split}.json"), recipe, batch_size=1000, threads=1))
        for split in ("train", "held_out")
    }
    for batch in batches["train"]:
        counts = np.bincount(batch.label_B.numpy(), minlength=10)
        assert counts.min() > 50, "each thousand holds every digit"
    pictures = {
        split: {hashlib.sha256(pixels.numpy().tobytes()).digest() for batch in of for pixels in batch.pixels_BCHW}
        for split, of in batches.items()
    }
    assert len(pictures["held_out"]) == 1000
    assert not pictures["train"] & pictures["held_out"]
    # Ink in the middle, none at the edges, and a one has less of it than a zero.
    first = batches["train"][0]
    ink = {digit: first.pixels_BCHW[first.label_B == digit].float().mean().item() for digit in (0, 1)}
    assert ink[1] < 0.6 * ink[0]
    assert first.pixels_BCHW[:, :, 0].float().mean() < 1 < first.pixels_BCHW[:, :, 14].float().mean()


def test_speech_is_short_and_split_by_prompts() -> None:
    assert sum(path.stat().st_size for path in (SETS / "speech").iterdir()) < 8e6
    text = (SETS / "speech/LICENSE").read_text()
    for word in (
        "Allison Smith",
        "June Wallack",
        "Carlo Flora",
        "Maxim Topal",
        "CC-BY-SA-3.0\n\nTHE WORK",
        "CC-BY-3.0\n\n",
    ):
        assert word in text
    names: dict[str, set[str]] = {}
    seen: set[bytes] = set()
    for split in ("train", "held_out"):
        for batch in every_sample(
            str(SETS / f"speech/{split}.json"), SoundConfig(sample_rate=8000, length=8192), batch_size=200
        ):
            names.setdefault(split, set()).update(key.partition("/")[2] for key in batch.keys)
            assert all(batch.captions) and int(batch.lengths_B.min()) >= 2000
            assert batch.samples_BCT.shape[1:] == (1, 8192) and int(batch.lengths_B.max()) <= 8192
            languages = [("en", "es", "fr", "it", "ru").index(key[:2]) for key in batch.keys]
            assert batch.label_B.tolist() == languages
            peaks = batch.samples_BCT.abs().amax(dim=(1, 2))
            assert int(peaks.min()) > 1000, "no clip is silent"
            seen |= {row.numpy().tobytes() for row in batch.samples_BCT}
    assert not names["train"] & names["held_out"], "a prompt is in one split, in all languages"
    assert len(seen) == 975


def test_prompts_are_read_from_lists_and_packages(tmp_path: Path) -> None:
    listed = "; about\n\nbeep: [a tone]\ndigits/1: One:  one \nempty:\n"
    assert texts_of(listed) == {"digits/1": "One: one"}
    quiet = np.r_[np.zeros(1000), np.full(50, 9000), np.zeros(1000)].astype(np.int16)
    assert len(trimmed(quiet)) == 50 + 2 * 400 and not len(trimmed(quiet[:900]))
    raw = b"!<arch>\n" + b"".join(
        f"{name:<16}{0:<12}{0:<6}{0:<6}{0:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
        for name, content in (("debian-binary", b"2.0"), ("data.tar.xz/", b"abcd"))
    )
    assert list(members(raw)) == [("debian-binary", b"2.0"), ("data.tar.xz", b"abcd")]
    (tmp_path / "asterisk-core-sounds-en_1.6.1-1_all.deb").write_bytes(raw)
    with pytest.raises(UserError, match="another SHA-256"):
        package_files("asterisk-core-sounds-en", tmp_path)
    with pytest.raises(UserError, match="sets=mmnist is not known: choose some of mnist, emoji, moving_emoji, speech"):
        main(["--out", str(tmp_path), "--sets", "mmnist"])


def test_a_set_is_written_the_same_twice(tmp_path: Path) -> None:
    made = SampleSet(
        name="tiny",
        classes=["a", "b"],
        source="here",
        licence_text="free",
        keys=[f"k{i}" for i in range(40)],
        labels=np.arange(40) % 2,
        extension="txt",
        encode=lambda i: str(i).encode(),
        train_shards=3,
    )
    for name in ("one", "two"):
        write(made, tmp_path / name, overwrite=False)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name / "tiny").iterdir()} for name in ("one", "two"))
    assert one == two
    assert json.loads(one["held_out.json"])["meta"]["counts"] == [2, 2]
    with pytest.raises(UserError, match="finished set"):
        write(made, tmp_path / "one", overwrite=False)


def test_emoji_are_put_on_white() -> None:
    picture = Image.new("RGBA", (256, 264), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (100, 100, 156, 164))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True)
    made = np.asarray(on_white(buffer.getvalue()))
    assert made.shape == (64, 64, 3)
    assert (made[0] == 255).all() and (made[:, 0] == 255).all()
    assert made[32, 32].tolist() == [0, 0, 255]


def test_a_package_of_other_contents_is_refused(tmp_path: Path) -> None:
    package = Package("@some/thing", "1.0.0", "0" * 64)
    assert package.file == "some-thing-1.0.0.tgz"
    with tarfile.open(tmp_path / package.file, "w:gz"):
        pass
    with pytest.raises(UserError, match="another SHA-256"):
        contents(package, tmp_path)


def test_prose_is_words_alone_and_each_tenth_chapter_is_held_out() -> None:
    config = TextDataConfig(batch_size=64)
    texts = [text for b in every_sample_of(str(SETS / "prose/held_out.json"), config, 0, 1) for text in b.texts]
    assert len(texts) == 26
    for text in texts:
        assert text.endswith("\n")
        assert not set(text) & set("<>*[]{}0123456789|=")
        assert "  " not in text
    assert plain('<w a="1">the</w> <w>king</w><note n="a">or <b>x</b></note>. <div sID="1" type="x-p"/>New') == (
        "the king.\nNew\n"
    )
