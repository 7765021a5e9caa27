"""Sets of sounds in their own layouts: LibriSpeech (also LibriTTS), LJSpeech, VCTK, ESC-50 (also UrbanSound8K)."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from data.packing.sources.base import existing
from data.packing.sources.listed import ListedSource, text_of
from data.packing.sources.split_names import SplitNames
from launch.command.cli import UserError

_SPEAKER = re.compile(r"[ps]\d+")


class SoundSource(ListedSource):
    """Sounds below one root."""

    media = "sounds"


class LibriSpeechSource(SoundSource):
    """`train-clean-100/SPEAKER/CHAPTER/*.flac` with `*.trans.txt` (LibriTTS: `*.normalized.txt`); a class is a speaker.

    The first word of a subset's name is its split: train-clean-100 and train-other-500 are `train`.
    """

    about = "LibriSpeech or LibriTTS: SUBSET/SPEAKER/CHAPTER/*.flac with transcripts"
    options = ("splits",)

    def __init__(self, root: str, splits: Mapping[str, str] | None = None) -> None:
        top = existing(root, "LibriSpeech's folder")
        super().__init__(top / "LibriSpeech" if (top / "LibriSpeech").is_dir() else top)
        names, files = SplitNames(splits), []
        for path, _ in self.listing.samples:
            subset, *between = path.split("/")
            split = names.of_folder(subset)
            split = names.of_folder(subset.partition("-")[0]) if split is None else split
            if len(between) != 3 or split is None:
                self.tally.left_out("not SUBSET/SPEAKER/CHAPTER/file of a known split", path, of="sounds")
            elif split:
                files.append((path, between[0], split))
            else:
                self.tally.ignored("left out by the setting splits", path)
        self.take(files, self._transcripts())

    def _transcripts(self) -> dict[str, str]:
        """The transcript of each sound, from the chapter's list or the file beside it."""
        path_of = {path.rpartition(".")[0]: path for path, _ in self.listing.samples}
        texts = {}
        for file, _ in self.listing.texts.values():
            folder, _, name = file.rpartition("/")
            text = text_of(self.root / file)
            if name.endswith(".trans.txt"):
                for line in text.splitlines():
                    key, _, words = line.partition(" ")
                    texts[f"{folder}/{key}"] = words.strip()
            elif name.endswith(".normalized.txt"):
                texts[f"{folder}/{name.removesuffix('.normalized.txt')}"] = text.strip()
        return {path_of[key]: words for key, words in texts.items() if key in path_of and words}


class LJSpeechSource(SoundSource):
    """`wavs/ID.wav` and `metadata.csv` with `ID|text|normalised text`: one speaker, all of it `train`."""

    about = "LJSpeech: wavs/ and metadata.csv"

    def __init__(self, root: str) -> None:
        super().__init__(existing(root, "LJSpeech's folder"))
        file = existing(self.root / "metadata.csv", "LJSpeech's metadata.csv")
        rows = [line.split("|") for line in text_of(file).splitlines() if line.strip()]
        if not rows or min(map(len, rows)) < 2:
            raise UserError(f"source: {file} has lines that aren't ID|text|text: fetch it again, or use kind=folder")
        path_of = {Path(path).stem: path for path, _ in self.listing.samples}
        for key in sorted({row[0] for row in rows} - path_of.keys()):
            self.tally.left_out("no sound of this name", f"{key} in metadata.csv", of="captions")
        texts = {path_of[row[0]]: row[-1].strip() or row[1].strip() for row in rows if row[0] in path_of}
        self.take(((path, "", "train") for path in path_of.values()), texts)


class VctkSource(SoundSource):
    """`wav48…/SPEAKER/*` with `txt/SPEAKER/*.txt`; a class is a speaker, all of it `train`.

    Of two microphones (`_mic1`, `_mic2`) the first is taken, as most do: both hold the same words.
    """

    about = "VCTK: wav48*/SPEAKER/ and txt/SPEAKER/"

    def __init__(self, root: str) -> None:
        super().__init__(existing(root, "VCTK's folder"))
        files, texts = [], {}
        for path, _ in self.listing.samples:
            *_, speaker, name = ["", *path.split("/")]
            key = re.sub(r"_mic\d$", "", name.rpartition(".")[0])
            if not _SPEAKER.fullmatch(speaker):
                self.tally.left_out("not in a speaker's folder, such as p225", path, of="sounds")
            elif key + "_mic2" == name.rpartition(".")[0]:
                self.tally.ignored("the second microphone", path)
            else:
                files.append((path, speaker, "train"))
                if (place := self.root / "txt" / speaker / f"{key}.txt").is_file():
                    texts[path] = text_of(place).strip()
        self.take(files, {path: text for path, text in texts.items() if text})


class Esc50Source(SoundSource):
    """ESC-50's `audio/` with `meta/esc50.csv`, or UrbanSound8K's: a class is a category.

    The last fold is `held_out` and the others `train`: recordings that clips were cut from don't straddle folds.
    """

    about = "ESC-50 or UrbanSound8K: audio/ and a table of files, folds and categories"

    def __init__(self, root: str) -> None:
        top = existing(root, "ESC-50's folder")
        super().__init__(top)
        tables = sorted((*top.glob("meta/*.csv"), *top.glob("metadata/*.csv"), *top.glob("*.csv")))
        found = next(((path, rows) for path in tables if (rows := _rows(path))), None)
        if found is None:
            raise UserError(
                f"source={root} has no table with filename, fold and category (meta/esc50.csv): name the "
                "folder that holds meta/ and audio/, or use kind=folder"
            )
        table, rows = found
        path_of = {path.rpartition("/")[2]: path for path, _ in self.listing.samples}
        last, files = max(fold for _, fold, _ in rows), []
        for name, fold, category in rows:
            if name in path_of:
                files.append((path_of.pop(name), category, "held_out" if fold == last else "train"))
            else:
                self.tally.left_out(f"in {table.name}, but not there", name, of="sounds")
        for path in path_of.values():
            self.tally.left_out(f"not in {table.name}", path, of="sounds")
        self.take(sorted(files), {})


def _rows(table: Path) -> list[tuple[str, int, str]]:
    """File name, fold and category of each row; nothing where the columns are others."""
    rows = list(csv.DictReader(text_of(table).splitlines()))
    for columns in (("filename", "fold", "category"), ("slice_file_name", "fold", "class")):
        if rows and all(column in rows[0] for column in columns):
            name, fold, category = columns
            try:
                return [(row[name], int(row[fold]), row[category]) for row in rows]
            except (ValueError, TypeError) as error:
                raise UserError(f"source: {table} has a fold that is no number ({error}): fetch it again") from error
    return []
