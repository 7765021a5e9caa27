"""Sources that hold all their pictures as arrays: MNIST's idx files, CIFAR's Python files, `.npy` and `.npz`.

Shapes: N samples, H W pixels, C channels.
"""

import codecs
import gzip
import io
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.packing.sources.base import Raw, Source, existing
from data.packing.sources.labels import class_numbers
from data.packing.sources.split_names import SplitNames
from launch.command.cli import UserError

FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


class PixelSource(Source):
    """Pictures that are rows of uint8 arrays (N, H, W) or (N, H, W, C), one array for each split."""

    def fill(self, parts: dict[str, tuple[np.ndarray, np.ndarray | None]], names: Sequence[str] = ()) -> None:
        """Set the fields from split → (pictures, labels or None); numbers without `names` are named by themselves."""
        self._parts: list[tuple[str, int, np.ndarray]] = []
        labels: list[Any] = []
        first = 0
        for split, (pictures, label_N) in parts.items():
            count = len(pictures)
            if label_N is not None and len(label_N) != count:
                raise UserError(f"source: {split} has {count} pictures but {len(label_N)} labels: it is not one set")
            self.splits[split] = np.arange(first, first + count)
            self._parts.append((split, first, pictures))
            labels += [None] * count if label_N is None else np.asarray(label_N).reshape(-1).tolist()
            first += count
        self.labels, self.classes = class_numbers(labels, "source: an array of labels", names)

    def read(self, number: int) -> Raw:
        """A row; its key is the split and its number there."""
        for split, first, pictures in reversed(self._parts):
            if number >= first:
                row = np.asarray(pictures[number - first])
                return Raw(key=f"{split}-{number - first:06d}", array=row, label=int(self.labels[number]))
        raise IndexError(number)

    def names(self) -> list[str]:
        """Shapes, and the first and last pictures' bytes: enough to recognise another file of the same name."""
        ends = [part[at].tobytes().hex() for _, _, part in self._parts for at in (0, -1) if len(part)]
        return [str([part.shape for _, _, part in self._parts]), *ends]


class IdxSource(PixelSource):
    """A folder with `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`: MNIST, Fashion-MNIST, KMNIST, …"""

    about = "MNIST's files"

    def __init__(self, root: str) -> None:
        super().__init__()
        top = existing(root, "a folder of idx files")
        parts: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
        for split, stem in (("train", "train"), ("test", "t10k")) if top.is_dir() else ():
            pictures = _idx(top, f"{stem}-images")
            if pictures is not None:
                parts[split] = (pictures, _idx(top, f"{stem}-labels"))
        if not parts:
            raise UserError(f"source={root} has no train-images-idx3-ubyte[.gz]: name the folder of the idx files")
        self.fill(parts)
        if "fashion" in str(top.resolve()).lower():
            self.classes = FASHION


def _idx(top: Path, stem: str) -> np.ndarray | None:
    """The array in the idx file whose name begins with `stem`, or None without one."""
    path = next((p for p in sorted(top.iterdir()) if re.match(re.escape(stem) + r"[-.]idx\d-ubyte", p.name)), None)
    if path is None:
        return None
    try:
        contents = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if len(contents) < 4 or contents[:3] != b"\0\0\x08":
            raise ValueError("it doesn't begin as an idx file of bytes")
        shape = np.frombuffer(contents, dtype=">u4", count=contents[3], offset=4)
        return np.frombuffer(contents, dtype=np.uint8, offset=4 + 4 * contents[3]).reshape(shape.astype(int))
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"source: {path} is damaged ({error}): fetch it again") from error


class CifarSource(PixelSource):
    """CIFAR-10's or CIFAR-100's Python files (`data_batch_1…`, `test_batch`; `train`, `test`), fine labels."""

    about = "CIFAR-10's or CIFAR-100's Python files"

    def __init__(self, root: str) -> None:
        super().__init__()
        top = existing(root, "a folder of CIFAR's Python files")
        if (top / "data_batch_1").exists():
            train = sorted(top.glob("data_batch_*"))
            test, meta, names, key = "test_batch", "batches.meta", "label_names", "labels"
        elif (top / "train").is_file():
            train, test, meta, names, key = [top / "train"], "test", "meta", "fine_label_names", "fine_labels"
        else:
            raise UserError(f"source={root} has neither data_batch_1 nor train: name the unpacked cifar-*-batches-py")
        parts = {"train": _cifar(train, key)}
        if (top / test).exists():
            parts["test"] = _cifar([top / test], key)
        self.fill(parts)
        self.classes = list(_unpickle(top / meta)[names])


def _cifar(paths: list[Path], key: str) -> tuple[np.ndarray, np.ndarray | None]:
    batches = [_unpickle(path) for path in paths]
    flat = np.concatenate([batch["data"] for batch in batches])
    return flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.concatenate([batch[key] for batch in batches])


class _ArraysOnly(pickle.Unpickler):
    """Allows numpy arrays and plain values, nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it contains {module}.{name}")


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        return _ArraysOnly(io.BytesIO(existing(path, "a file of the set").read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"source: {path} is no CIFAR file ({error}): fetch it again") from error


class ArraySource(PixelSource):
    """A `.npz` (`images` + `labels`, or `x_train` + `y_train`, `train_images` + `train_labels`, …) or a `.npy`.

    Beside `NAME.npy`, labels may be in `NAME_labels.npy`. Pictures must be uint8 (N, H, W), (N, H, W, C) or
    (N, C, H, W) with C = 1, 3 or 4.
    """

    about = ".npy or .npz with pictures"
    options = ("splits",)

    def __init__(self, path: str, splits: Mapping[str, str] | None = None) -> None:
        super().__init__()
        arrays = _arrays(existing(path, "an array file"))
        named = arrays.pop("classes", arrays.pop("class_names", None))
        pictures = [name for name, array in arrays.items() if array.ndim >= 3]
        if not pictures:
            raise UserError(f"source={path} has no array of pictures: it needs a uint8 array (N, H, W) or (N, H, W, C)")
        names = SplitNames(splits)
        split_of = names.assign(pictures, self.tally, path)
        of_split = {split: [name for name, other in split_of.items() if other == split] for split in split_of.values()}
        parts: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
        used = {*pictures}
        for split, (name, *others) in of_split.items():
            if others:
                raise UserError(
                    f"source={path} has several arrays of pictures for {split} ({name}, {', '.join(others)}): say "
                    f'which split each is by --splits \'{{"{others[0]}": ""}}\' ("" leaves it out)'
                )
            labels = _labels(arrays, split, names, only=len(pictures) == 1)
            used |= {labels} if labels else set()
            parts[split] = (_pictures(name, arrays[name]), arrays[labels] if labels else None)
        for name in sorted(arrays.keys() - used):
            self.tally.noted(
                f"an array {arrays[name].shape} that isn't used: pictures are (N, H, W, …), labels (N,)", name
            )
        self.fill(parts, [] if named is None else [str(name) for name in named.tolist()])


def _labels(arrays: Mapping[str, np.ndarray], split: str, names: SplitNames, *, only: bool) -> str | None:
    """The name of the array with the labels of a split: (N,) or (N, 1), called labels or y before all others."""
    found = [
        name
        for name, array in arrays.items()
        if 0 < array.ndim <= 2
        and array.size == len(array)
        and (names.of_path(name) or (split if only else "")) == split
    ]
    return min(found, key=lambda name: not re.search(r"label|target|class|(^|_)y(_|$)", name.lower()), default=None)


def _pictures(name: str, array: np.ndarray) -> np.ndarray:
    """The array as (N, H, W) or (N, H, W, C)."""
    if array.dtype != np.uint8:
        raise UserError(
            f"source: the array {name} is {array.dtype}, not uint8: scale it to 0..255 and save it as uint8"
        )
    if array.ndim == 4 and array.shape[3] not in (1, 3, 4) and array.shape[1] in (1, 3, 4):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[:, :, :, 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (3, 4)):
        raise UserError(f"source: the array {name} has shape {array.shape}: pictures are (N, H, W) or (N, H, W, 1|3|4)")
    return array


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz`, or of a `.npy` and its labels; UserError for a file that can't be read."""
    try:
        if file.suffix != ".npy":
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        beside = file.with_name(f"{file.stem}_labels.npy")
        arrays = {"images": np.load(file, mmap_mode="r", allow_pickle=False)}
        return arrays | ({"labels": np.load(beside, allow_pickle=False)} if beside.exists() else {})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"source={file} holds no plain arrays ({error}): save pictures as uint8 by numpy") from error
