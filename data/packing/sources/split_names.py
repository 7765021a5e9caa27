"""The one place for names of splits: which part of a source is training data and which isn't.

A split is never guessed. What names no split, beside other parts that do, is refused; the setting `splits` says what it
is. Only where nothing in a source names a split is all of it `train`, and the closing table says so.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from data.shards.tally import Tally
from launch.command.checks import named
from launch.command.cli import UserError

WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("held_out", "heldout", "holdout"), "held_out"),
    **{word: word for word in ("val", "valid", "validation", "dev", "devel", "development")},
    **{word: word for word in ("test", "testing", "tst", "eval", "evaluation")},
}
"""Word in a folder's or file's name → split. Other spellings of `train` are one; all else keeps its own word."""
_MIXED = frozenset(("trainval", "trainvaltest", "valtest", "minitrain", "minival", "testdev", "devtest"))
"""Words that name a split which isn't in WORDS."""
_FILLERS = frozenset(("set", "data", "dataset", "split", "images", "imgs", "img", "pictures", "partial"))
"""Words in a folder's name that leave its split as it is: `test_set`, `train_images`, the Hub's `partial-train`."""
_NUMBERED = re.compile(r"(.+?)[-_.]\d+[-_]of[-_]\d+")


class SplitNames:
    """Finds the split that a name says; `given` (the setting `splits`) has the last word.

    A key of `given` is a name, or a pattern with `*`, of a folder, a file or a path below the source, in any case. Its
    value is a split; an empty one leaves the part out.
    """

    def __init__(self, given: Mapping[str, str] | None = None):
        self.given = {key.lower(): value for key, value in (given or {}).items()}
        for key, value in self.given.items():
            if not re.fullmatch(r"[\w-]*", value):
                raise UserError(f"splits.{key}={value!r} is no name of a split: use letters, digits, _ and -, or ''")

    @property
    def whole(self) -> str | None:
        """The split of everything, where `splits` is {"*": SPLIT}; then no name is looked at."""
        return self.given.get("*") if len(self.given) == 1 else None

    def of_folder(self, name: str) -> str | None:
        """The split that the whole name of a folder says (`Val`, `test_set`, `split=dev`, `train2017`); None: no split.

        "" is a folder to be left out.
        """
        given = self._given((name,))
        if given is not None:
            return given
        explicit = re.fullmatch(r"split=([\w-]+)", name, re.IGNORECASE)
        if explicit:
            return WORDS.get(explicit[1].lower(), explicit[1].lower())
        left = [word for word in _words(name) if word not in _FILLERS]
        return WORDS.get(left[0]) if len(left) == 1 else None

    def of_path(self, path: str) -> str | None:
        """The split that a file's path says, by words of its name or by its folders; None: none, or several.

        "" is a file to be left out.
        """
        *folders, name = PurePosixPath(path).parts
        stem = name.split(".")[0]
        prefix = _NUMBERED.match(name)
        given = self._given((path, *folders, name, stem, *([prefix[1]] if prefix else [])))
        if given is not None:
            return given
        found = {WORDS[word] for word in _words(stem) if word in WORDS}
        found |= {split for folder in folders if (split := self.of_folder(folder))}
        return found.pop() if len(found) == 1 and not _MIXED.intersection(_words(stem)) else None

    def assign(self, paths: Iterable[str], tally: Tally, source: str) -> dict[str, str]:
        """Split of each file (or array); those to be left out are missing. UserError where some name none."""
        paths = list(paths)
        found = {path: self.of_path(path) for path in paths}
        odd = [path for path, split in found.items() if split is None]
        prefixes = {match[1] for path in odd if (match := _NUMBERED.match(PurePosixPath(path).name))}
        stems = [PurePosixPath(path).name.split(".")[0] for path in odd]
        if odd and (len(odd) < len(paths) or len(prefixes) > 1 or any(map(self._several, odd)) or self.doubtful(stems)):
            raise unknown_splits(source, odd)
        if odd:
            tally.noted("no name says a split, so all of it is train", source)
        for path, split in found.items():
            if split == "":
                tally.ignored("left out by the setting splits", path)
        assigned = {path: "train" if split is None else split for path, split in found.items() if split != ""}
        self._tell_folders(assigned, tally)
        return assigned

    def _tell_folders(self, assigned: Mapping[str, str], tally: Tally) -> None:
        """Note folders, such as the configurations of a set of the Hub, whose files become one split."""
        folders: dict[str, dict[str, None]] = {}
        for path, split in assigned.items():
            parts = [part for part in PurePosixPath(path).parent.parts if self.of_folder(part) is None]
            folders.setdefault(split, {})["/".join(parts) or "."] = None
        for split, names in folders.items():
            for name in names if len(names) > 1 else ():
                tally.noted(f"folders that make up {split} together; for one of them alone name it as the source", name)

    def doubtful(self, names: Iterable[str]) -> list[str]:
        """Names of no known split that look like it: `trainval`, `trainA` beside `testA`, `mytrain` beside `mytest`."""
        names = list(names)
        alike: dict[str, dict[str, str]] = {}
        for name in names:
            for split, rest in _inside(name):
                alike.setdefault(rest, {})[name] = split
        pairs = [name for found in alike.values() if len(set(found.values())) > 1 for name in found]
        return sorted({*pairs, *(name for name in names if _MIXED.intersection(_words(name)))})

    def _given(self, names: Iterable[str]) -> str | None:
        for key, value in self.given.items():
            if any(fnmatchcase(name.lower(), key) for name in names):
                return value
        return None

    def _several(self, path: str) -> bool:
        """Whether a path that names no split names several, or one that isn't known."""
        *folders, name = PurePosixPath(path).parts
        words = {word for part in (*folders, name.split(".")[0]) for word in _words(part)}
        return bool(_MIXED & words) or any(word in WORDS for word in _words(name.split(".")[0]))


def unknown_splits(source: str, odd: Sequence[str]) -> UserError:
    """The refusal of parts of a source that don't say which split they are."""
    name = PurePosixPath(odd[0]).name
    prefix = _NUMBERED.match(name)
    key = prefix[1] if prefix else name.split(".")[0]
    return UserError(
        f"source={source}: {named(odd)} {'names' if len(odd) == 1 else 'name'} no known split beside others that do, "
        f'or several: say which by --splits \'{{"{key}": "train"}}\' ("" leaves it out; {{"*": "train"}}: '
        "no name says a split)"
    )


def _inside(name: str) -> Iterator[tuple[str, str]]:
    """Each split whose word a name has, alone or at an end of a longer one, and what is left of the name."""
    words = _words(name)
    for i, word in enumerate(words):
        for known, split in WORDS.items():
            if word.startswith(known) or word.endswith(known):
                rest = word.removesuffix(known) if word.endswith(known) else word.removeprefix(known)
                yield split, " ".join([*words[:i], rest, *words[i + 1 :]])


def _words(name: str) -> list[str]:
    """The words of a name, lower case: letters only, `held-out` and `heldOut` as one word."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    joined = re.sub(r"held[\W_]?out", "heldout", spaced)
    return re.findall(r"[^\W\d_]+", joined)
