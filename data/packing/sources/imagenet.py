"""ImageNet's layouts: `train/<wnid>/*.JPEG` with `val/<wnid>/` or a flat `val/`, and class names from the devkit.

Both the devkit (`ILSVRC2012_devkit_t12/data/meta.mat`, `…validation_ground_truth.txt`) and Kaggle's files
(`LOC_synset_mapping.txt`, `LOC_val_solution.csv`) are understood, in the root or up to two
levels below it.
"""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from data.packing.sources.base import existing
from data.packing.sources.folders import FileSource, class_folders, has_sample
from data.packing.sources.listing import Listing
from data.packing.sources.split_names import SplitNames
from data.shards.text import text_lines
from launch.command.cli import UserError


class ImageNetSource(FileSource):
    """Classes are WordNet ids in sorted order (as torchvision and all published models number them)."""

    about = "ImageNet's layouts and devkit"

    def __init__(self, root: str) -> None:
        super().__init__(_top(existing(root, "ImageNet's folder")))
        tops = _tops(self.root)
        if not tops:
            raise UserError(f"source={root} has neither train/ nor val/: name ImageNet's root, or use kind=folder")
        wnids = sorted({name for folder in tops.values() for name in class_folders(folder)})
        names = class_names(Path(root))
        wnids = wnids or sorted(names)
        number = {wnid: i for i, wnid in enumerate(wnids)}
        self.classes = [names.get(wnid, wnid) for wnid in wnids]
        self.meta = {"wnids": wnids}
        truth = cache(lambda: ground_truth(Path(root)))  # read for a flat val/ only
        files = []
        for split, folder in tops.items():
            listing = Listing(folder, self.tally)
            for text, _ in (*listing.texts.values(), *((name, 0) for name in listing.lists)):
                self.tally.ignored("a text file, which kind=imagenet doesn't read", text)
            for path, size in listing.samples:
                wnid, slash, _ = path.partition("/")
                if not slash:
                    wnid = truth().get(path.rpartition(".")[0], "")
                    if wnid not in number:
                        raise UserError(f"source: {folder / path} has no class in the devkit's ground truth: add "
                                        "ILSVRC2012_devkit_t12 or LOC_val_solution.csv to the root")  # fmt: skip
                files.append((f"{folder.name}/{path}", size, number[wnid], split))
        self.fill(files)
        for name in class_folders(self.root):
            if self.root / name not in tops.values() and has_sample(self.root / name):
                self.tally.noted("pictures that kind=imagenet doesn't read, because they have no classes", f"{name}/")

    @classmethod
    def certain_splits(cls, source: str, splits: Mapping[str, str] | None = None) -> list[str]:
        """Those whose folder holds a picture."""
        return [name for name, folder in _tops(_top(Path(source))).items() if has_sample(folder)]


def _top(root: Path) -> Path:
    """The folder of train and val: `root`, or below it as Kaggle packs them."""
    return root / "ILSVRC/Data/CLS-LOC" if (root / "ILSVRC/Data/CLS-LOC").is_dir() else root


def _tops(top: Path) -> dict[str, Path]:
    """The folders of `train` and `val`, whose names may have another case or spelling."""
    found: dict[str, Path] = {}
    for name in class_folders(top) if top.is_dir() else []:
        split = SplitNames().of_folder(name)
        split = "val" if split in ("val", "valid", "validation") else split
        if split in ("train", "val"):
            if split in found:
                raise UserError(f"source: {found[split]} and {top / name} are both {split}: leave one of them there")
            found[split] = top / name
    return dict(sorted(found.items()))


def class_names(root: Path) -> dict[str, str]:
    """WordNet id → words, from the devkit's meta.mat or Kaggle's mapping; empty without either."""
    mapping = _find(root, "LOC_synset_mapping.txt")
    if mapping is not None:
        lines = (line.partition(" ") for line in text_lines(mapping.read_bytes()) if line)
        return {wnid: words for wnid, _, words in lines}
    return {wnid: words for _, wnid, words in _meta(root)}


def ground_truth(root: Path) -> dict[str, str]:
    """Validation picture (without extension) → WordNet id; empty without such a file."""
    solution = _find(root, "LOC_val_solution.csv")
    if solution is not None:
        with solution.open(newline="") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    truth = _find(root, "ILSVRC2012_validation_ground_truth.txt")
    if truth is None:
        return {}
    wnid_of = {number: wnid for number, wnid, _ in _meta(root)}
    numbers = [int(line) for line in truth.read_text().split()]
    return {f"ILSVRC2012_val_{i:08d}": wnid_of[number] for i, number in enumerate(numbers, 1)}


def _meta(root: Path) -> list[tuple[int, str, str]]:
    """(ILSVRC2012_ID, wnid, words) of the leaf synsets in meta.mat."""
    path = _find(root, "meta.mat")
    if path is None:
        return []
    from scipy.io import loadmat

    rows = loadmat(str(path), squeeze_me=True)["synsets"]
    return [(int(row[0]), str(row[1]), str(row[2])) for row in rows if int(row[4]) == 0]


def _find(root: Path, name: str) -> Path | None:
    patterns = (name, f"*/{name}", f"*/*/{name}")
    return next((path for pattern in patterns for path in sorted(root.glob(pattern))), None)
