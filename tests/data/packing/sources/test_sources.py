"""Each kind of source, made small and real: its files are written as their publishers write them, and packed."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from data.pack import PackConfig, pack
from data.packing.sources import SOURCES, open_source
from data.packing.sources.base import Raw, Source
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from data.shards.loading import load_index
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError, parse
from tests.data.archives import members
from tests.data.making import jpeg, picture_set

RNG = np.random.default_rng(0)


def packed(source: Path, out: Path, kind: str, **options: Any) -> dict[str, dict[str, bytes]]:
    """Pack in one process, unshuffled; split → members of its only shard."""
    options = {"processes": 1, "shuffle": False, **options}
    written = pack(PackConfig(source=str(source), out=str(out), kind=kind, **options), show_progress=False)  # type: ignore[arg-type]
    return {split: members((out / records[0].url).read_bytes()) for split, records in written.items()}


def pixels(contents: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(contents)))


def write_idx(path: Path, array: np.ndarray) -> None:
    contents = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(contents) if path.suffix == ".gz" else contents)


def test_idx(tmp_path: Path) -> None:
    pictures = RNG.integers(0, 256, (6, 28, 28), dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", pictures[:4])
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([3, 0, 1, 2], np.uint8))
    write_idx(tmp_path / "t10k-images-idx3-ubyte", pictures[4:])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.array([1, 2], np.uint8))
    found = packed(tmp_path, tmp_path / "out", "idx")
    assert (found["train"]["train-000000.cls"], found["test"]["test-000001.cls"]) == (b"3", b"2")
    np.testing.assert_array_equal(pixels(found["train"]["train-000002.png"]), pictures[2])
    np.testing.assert_array_equal(pixels(found["test"]["test-000000.png"]), pictures[4])
    assert load_index(tmp_path / "out/train.json").classes == ["0", "1", "2", "3"]


def test_idx_that_is_cut_off(tmp_path: Path) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((2, 28, 28), np.uint8))
    whole = (tmp_path / "train-images-idx3-ubyte").read_bytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(whole[:-5])
    with pytest.raises(UserError, match="damaged"):
        open_source("idx", str(tmp_path))


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar(tmp_path: Path, hundred: bool) -> None:
    flat = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
    key, names = ("fine_labels", "fine_label_names") if hundred else ("labels", "label_names")
    files = (
        {"train": flat[:3], "test": flat[3:]}
        if hundred
        else {"data_batch_1": flat[:2], "data_batch_2": flat[2:3], "test_batch": flat[3:]}
    )
    first = 0
    for name, rows in files.items():
        labels = [number % 3 for number in range(first, first + len(rows))]
        (tmp_path / name).write_bytes(pickle.dumps({"data": rows, key: labels}, protocol=2))
        first += len(rows)
    meta = {names: ["ant", "bee", "cow"]}
    (tmp_path / ("meta" if hundred else "batches.meta")).write_bytes(pickle.dumps(meta, protocol=2))
    found = packed(tmp_path, tmp_path / "out", "cifar")
    assert found["train"]["train-000002.cls"] == b"2"
    for i, (split, name) in enumerate(
        [("train", f"train-00000{i}.png") for i in range(3)] + [("test", "test-000000.png")]
    ):
        np.testing.assert_array_equal(pixels(found[split][name]), flat[i].reshape(3, 32, 32).transpose(1, 2, 0))
    assert load_index(tmp_path / "out/test.json").classes == ["ant", "bee", "cow"]


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": Evil(), "labels": [0]}))
    with pytest.raises(UserError, match="contains"):
        open_source("cifar", str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shape", [(5, 8, 9), (5, 8, 9, 1), (5, 8, 9, 3), (5, 3, 8, 9), (5, 8, 9, 4)])
def test_npz_in_every_layout(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x_train=array, y_train=np.arange(5)[:, None], x_test=array[:2], y_test=[1, 0])
    found = packed(tmp_path / "set.npz", tmp_path / "out", "array")
    expected = array[4].transpose(1, 2, 0) if shape[1] == 3 else np.squeeze(array[4])
    np.testing.assert_array_equal(pixels(found["train"]["train-000004.png"]), expected)
    assert found["train"]["train-000004.cls"] == b"4"
    assert found["test"]["test-000000.cls"] == b"1"


def test_npy_with_labels_beside(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)
    np.save(tmp_path / "set.npy", array)
    np.save(tmp_path / "set_labels.npy", np.array([1, 0, 1]))
    found = packed(tmp_path / "set.npy", tmp_path / "out", "array")
    assert [found["train"][f"train-00000{i}.cls"] for i in range(3)] == [b"1", b"0", b"1"]
    np.save(tmp_path / "set.npy", array / 255)
    with pytest.raises(UserError, match="not uint8"):
        open_source("array", str(tmp_path / "set.npy"))


def test_folder_with_splits(tmp_path: Path) -> None:
    for path in ("train/ant/1.jpg", "train/bee/x/2.jpg", "test/bee/3.jpg"):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_bytes(jpeg(1))
    found = packed(tmp_path / "in", tmp_path / "out", "folder")
    assert set(found["train"]) == {"train/ant/1.cls", "train/ant/1.jpg", "train/bee/x/2.cls", "train/bee/x/2.jpg"}
    assert found["test"]["test/bee/3.cls"] == b"1"


WNIDS = {"n01": "tench, Tinca tinca", "n02": "goldfish", "n03": "great white shark"}


def imagenet(root: Path, flat: bool) -> None:
    for wnid in WNIDS:
        (root / "train" / wnid).mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_7.JPEG").write_bytes(jpeg(int(wnid[1:])))
    for i, wnid in enumerate(("n03", "n01"), 1):
        folder = root / "val" / ("" if flat else wnid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"ILSVRC2012_val_{i:08d}.JPEG").write_bytes(jpeg(i))


def test_imagenet_with_the_devkit(tmp_path: Path) -> None:
    from scipy.io import savemat

    imagenet(tmp_path / "in", flat=True)
    devkit = tmp_path / "in/ILSVRC2012_devkit_t12/data"
    devkit.mkdir(parents=True)
    # The devkit numbers the classes in an order of its own; inner synsets follow with children.
    rows = [(1, "n03"), (2, "n01"), (3, "n02"), (4, "n99")]
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    table = np.array([(n, w, WNIDS.get(w, "entity"), "", 3 * (w == "n99")) for n, w in rows], dtype=kind)
    savemat(devkit / "meta.mat", {"synsets": table[:, None]})
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    found = packed(tmp_path / "in", tmp_path / "out", "imagenet")
    assert found["val"]["val/ILSVRC2012_val_00000001.cls"] == b"2"
    assert found["val"]["val/ILSVRC2012_val_00000002.cls"] == b"0"
    assert found["train"]["train/n02/n02_7.cls"] == b"1"
    index = load_index(tmp_path / "out/train.json")
    assert (index.classes, index.meta["wnids"]) == (list(WNIDS.values()), list(WNIDS))


def test_imagenet_as_on_kaggle(tmp_path: Path) -> None:
    imagenet(tmp_path / "in/ILSVRC/Data/CLS-LOC", flat=True)
    with pytest.raises(UserError, match="LOC_val_solution"):
        open_source("imagenet", str(tmp_path / "in"))
    (tmp_path / "in/LOC_synset_mapping.txt").write_text("".join(f"{w} {n}\n" for w, n in WNIDS.items()))
    (tmp_path / "in/LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n03 1 2 3 4\nILSVRC2012_val_00000002,n01 1 2 3 4\n"
    )
    found = packed(tmp_path / "in", tmp_path / "out", "imagenet")
    assert found["val"]["val/ILSVRC2012_val_00000001.cls"] == b"2"
    assert load_index(tmp_path / "out/val.json").classes[0] == "tench, Tinca tinca"


@pytest.mark.parametrize("kaggle", [False, True])
def test_celeba(tmp_path: Path, kaggle: bool) -> None:
    top = tmp_path / "in"
    folder = top / ("img_align_celeba/img_align_celeba" if kaggle else "img_align_celeba")
    folder.mkdir(parents=True)
    for i in range(1, 4):
        (folder / f"{i:06d}.jpg").write_bytes(jpeg(i))
    values = {"000001.jpg": (1, -1), "000002.jpg": (-1, -1), "000003.jpg": (1, 1)}
    separator, suffix = (",", "csv") if kaggle else ("  ", "txt")
    attributes = [separator.join((["image_id"] if kaggle else []) + ["Male", "Smiling"])]
    attributes += [separator.join([name, *map(str, of)]) for name, of in values.items()]
    parts = (["image_id,partition"] if kaggle else []) + [
        f"{n}{separator.strip() or ' '}{i}" for i, n in enumerate(values)
    ]
    (top / f"list_attr_celeba.{suffix}").write_text("\n".join(attributes if kaggle else ["3", *attributes]))
    (top / f"list_eval_partition.{suffix}").write_text("\n".join(parts))
    found = packed(top, tmp_path / "out", "celeba", label_attribute="Smiling")
    assert found["train"]["000001.cls"] == b"0"
    assert json.loads(found["test"]["000003.attr.json"]) == {"Male": True, "Smiling": True}
    assert found["test"]["000003.cls"] == b"1"
    assert set(found) == {"train", "val", "test"}
    assert load_index(tmp_path / "out/val.json").classes == ["not Smiling", "Smiling"]
    with pytest.raises(UserError, match="choose one of Male, Smiling"):
        open_source("celeba", str(top), {"label_attribute": "Tall"})


def test_celeba_pictures_of_no_split_are_never_put_into_train(tmp_path: Path) -> None:
    (tmp_path / "img_align_celeba").mkdir()
    for name in ("1.jpg", "2.jpg", "4.jpg", ".DS_Store"):
        (tmp_path / "img_align_celeba" / name).write_bytes(jpeg(1))
    (tmp_path / "list_attr_celeba.txt").write_text("3\nMale\n1.jpg 1\n2.jpg -1\n3.jpg 1\n")
    (tmp_path / "list_eval_partition.txt").write_text("1.jpg 1\n3.jpg 0\n")
    found = open_source("celeba", str(tmp_path))
    assert (found.paths, list(found.splits)) == (["1.jpg"], ["val"])
    told = "\n".join(found.tally.lines())
    for line in ("not in list_eval_partition, so of no split (1 .jpg): 2.jpg", "but not in the folder (1 .jpg): 3.jpg",
                 "not in list_attr_celeba (1 .jpg): 4.jpg", "system or hidden files: .DS_Store"):  # fmt: skip
        assert line in told
    (tmp_path / "list_eval_partition.txt").write_text("1.jpg 7\n2.jpg 0\n")
    with pytest.raises(UserError, match=r"puts 1\.jpg into part 7"):
        open_source("celeba", str(tmp_path))


def test_imagenet_folders_of_any_case_and_unlabelled_ones(tmp_path: Path) -> None:
    imagenet(tmp_path, flat=False)
    (tmp_path / "train").rename(tmp_path / "Train")
    (tmp_path / "val").rename(tmp_path / "validation")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "test/1.JPEG").write_bytes(jpeg(1))
    found = open_source("imagenet", str(tmp_path))
    assert {name: len(numbers) for name, numbers in found.splits.items()} == {"train": 3, "val": 2}
    assert "doesn't read, because they have no classes: test/" in "\n".join(found.tally.lines())
    assert found.certain_splits(str(tmp_path)) == ["train", "val"]


def parquet(path: Path, labels: list[Any], first: int, metadata: bool = True) -> None:
    import pyarrow
    import pyarrow.parquet

    images = [{"bytes": jpeg(first + i), "path": None} for i in range(len(labels))]
    images[0]["bytes"] = images[0]["bytes"] if first else None
    table = pyarrow.table({"image": images, "label": labels})
    if metadata:
        features = {"label": {"names": ["zero", "one"], "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=2)


def test_parquet_as_on_the_hub(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet(tmp_path / "in/train-00000-of-00002.parquet", [0, 1, 1], 0)
    parquet(tmp_path / "in/train-00001-of-00002.parquet", [1, 0, 1], 3)
    parquet(tmp_path / "in/test-00000-of-00001.parquet", [0], 9)
    found = packed(tmp_path / "in", tmp_path / "out", "parquet", allow_left_out=0.2)
    assert found["test"]["test-00000-of-00001/00000000.jpg"] == jpeg(9)
    train = found["train"]
    assert len(train) == 10, "the row without a picture is left out"
    assert train["train-00001-of-00002/00000004.jpg"] == jpeg(3)
    assert train["train-00001-of-00002/00000005.cls"] == b"0"
    skipped = json.loads((tmp_path / "out/train.skipped.json").read_text())
    assert list(skipped.values()) == ["its picture column is empty"]
    assert load_index(tmp_path / "out/train.json").classes == ["zero", "one"]


def test_parquet_captions_are_kept_by_choice(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet(tmp_path / "in/data.parquet", ["a cat", "a dog", None], 1, metadata=False)
    found = packed(tmp_path / "in", tmp_path / "out", "parquet", caption_column="label")["train"]
    assert (found["data/00000000.txt"], found["data/00000001.txt"]) == (b"a cat", b"a dog")
    assert found["data/00000002.jpg"] == jpeg(3) and "data/00000002.txt" not in found
    without = packed(tmp_path / "in", tmp_path / "2", "parquet", label_column="")["train"]
    assert not any(name.endswith((".txt", ".cls")) for name in without)
    with pytest.raises(UserError, match=r"column text isn't in .*: choose one of image, label"):
        packed(tmp_path / "in", tmp_path / "3", "parquet", caption_column="text")


def test_parquet_shuffles_by_row_group(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet(tmp_path / "in/data.parquet", ["b", "a", "b", None, "a", "b", "b"], 1, metadata=False)
    found = packed(tmp_path / "in", tmp_path / "out", "parquet", shuffle=True, allow_left_out=0.2)["train"]
    assert load_index(tmp_path / "out/train.json").classes == ["a", "b"]
    assert {name: found[name] for name in found if "00000000" in name}["data/00000000.cls"] == b"1"
    assert "data/00000003.cls" not in found and "data/00000003.jpg" in found
    groups = [int(name[-12:-4]) // 2 for name in found if name.endswith(".jpg")]
    assert groups != sorted(groups)
    assert len([i for i in range(1, 7) if groups[i] != groups[i - 1]]) == 3, "each row group is read once"
    with pytest.raises(UserError, match="choose one of image, label"):
        open_source("parquet", str(tmp_path / "in"), {"image_column": "img"})


def test_tars_are_resharded(tmp_path: Path) -> None:
    index = picture_set(tmp_path / "in", [7, 5])
    for source in (index, tmp_path / "in", tmp_path / "in/*.tar"):
        out = tmp_path / f"out{len(str(source))}"
        written = pack(
            PackConfig(source=str(source), out=str(out), kind="tars", samples_per_shard=4, processes=1),
            show_progress=False,
        )
        assert [record.nsamples for record in written["train"]] == [4, 4, 4]
        merged: dict[str, bytes] = {}
        for record in written["train"]:
            merged |= members((out / record.url).read_bytes())
        original = members((tmp_path / "in/set-00.tar").read_bytes()) | members(
            (tmp_path / "in/set-01.tar").read_bytes()
        )
        assert merged == original
    assert load_index(tmp_path / f"out{len(str(index))}/train.json").classes == ["class 0", "class 1", "class 2"]


def test_words_as_labels_are_classes_and_a_sample_without_a_picture_is_told(tmp_path: Path) -> None:
    from tests.data.making import write_tar

    write_tar(
        tmp_path / "a.tar", [("a", {"jpg": jpeg(0), "cls": b"cat"}), ("b", {"txt": b"?"}), ("c", {"jpg": jpeg(1)})]
    )
    source = open_source("tars", str(tmp_path / "a.tar"))
    assert (len(source), source.classes) == (2, ["cat"])
    assert [source.read(number).label for number in (0, 1)] == [0, -1]
    assert source.read(1).encoded == jpeg(1)
    assert "left out of the pictures: 1, no picture (1 .txt): b.txt" in source.tally.lines()


def test_a_word_among_numbers_is_no_label(tmp_path: Path) -> None:
    from tests.data.making import write_tar

    labels = [*[b"0"] * 12, b"cat"]
    write_tar(tmp_path / "a.tar", [(f"{i:02d}", {"jpg": jpeg(i), "cls": text}) for i, text in enumerate(labels)])
    source = open_source("tars", str(tmp_path / "a.tar"))
    assert (len(source), source.classes) == (13, [])
    assert [source.read(number).label for number in (0, 12)] == [0, -1]
    assert "left out of the labels: 1, labels that are none of the classes: 'cat'" in source.tally.lines()


def test_labels_that_some_samples_of_tars_lack_are_counted(tmp_path: Path) -> None:
    from tests.data.making import write_tar

    write_tar(tmp_path / "in/a.tar", [(f"{i}", {"jpg": jpeg(i)} | ({"cls": b"0"} if i else {})) for i in range(4)])
    with pytest.raises(UserError, match=r"1 of 4 labels \(25\.0%\) are left out: 1 no label \(in train-000000\.tar\)"):
        packed(tmp_path / "in", tmp_path / "out", "tars")
    assert len(packed(tmp_path / "in", tmp_path / "out", "tars", allow_left_out=0.25)["train"]) == 7


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "x/../../a.jpg"])
def test_members_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(UserError, match="leaves the archive"):
        open_source("tars", str(tmp_path / "a.tar"))


@pytest.mark.parametrize("kind", ["folder", "imagenet", "celeba", "idx", "cifar", "array", "parquet", "tars"])
def test_a_missing_source_is_one_line(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(kind, str(tmp_path / "nowhere"))
    assert "nowhere" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "imagenet", "celeba", "idx", "cifar", "array", "parquet", "tars"])
def test_a_picture_is_no_source(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    with pytest.raises(UserError) as caught:
        open_source(kind, str(tmp_path / "a.jpg"))
    assert "a.jpg" in str(caught.value) and "\n" not in str(caught.value)


class CountingSource(Source):
    """A source from outside: N grey pictures, of which the last is damaged."""

    about = "a number"

    def __init__(self, path: str) -> None:
        super().__init__()
        count = int(path)
        self.classes, self.labels, self.splits = ["one"], np.zeros(count, np.int64), {"train": np.arange(count)}

    def read(self, number: int) -> Raw:
        if number == len(self) - 1:
            raise DamagedSampleError("the last one")
        return Raw(key=str(number), array=np.full((4, 4), number, np.uint8), label=0)


def test_a_source_needs_its_file_and_its_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_args(get_type_hints(PackConfig)["kind"]) == tuple(SOURCES)
    with pytest.raises(UserError, match=r"nonsense.*folder.*tars"):
        parse(PackConfig, ["a", "b", "--kind", "nonsense"], prog="test", positional=("source", "out"))
    monkeypatch.setitem(SOURCES, "count", CountingSource)
    pack(PackConfig(source="5", out=str(tmp_path), kind="count", processes=1, allow_left_out=0.2), show_progress=False)
    (batch,) = every_sample(str(tmp_path / "train.json"), TransformConfig(size=4, channels=1), batch_size=9)
    assert {key: int(rows.max()) for key, rows in zip(batch.keys, batch.pixels_BCHW, strict=True)} == {
        str(number): number for number in range(4)
    }
    assert json.loads((tmp_path / "train.skipped.json").read_text()) == {"sample 4": "the last one"}
