"""Names of splits: the usual spellings are known, unknown ones refused, and nothing is guessed into train."""

from __future__ import annotations

import pytest

from data.packing.sources.split_names import SplitNames
from data.shards.tally import Tally
from launch.command.cli import UserError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Train", "train"), ("TRAINING", "train"), ("trn", "train"), ("training_set", "train"),
        ("train2017", "train"), ("train_images", "train"), ("images-train", "train"), ("partial-train", "train"),
        ("split=train", "train"), ("split=TRAIN", "train"), ("val", "val"), ("Valid", "valid"),
        ("validation", "validation"), ("dev", "dev"), ("devel", "devel"), ("test_set", "test"), ("test1", "test"),
        ("Testing", "testing"), ("eval", "eval"), ("evaluation", "evaluation"), ("held_out", "held_out"),
        ("heldOut", "held_out"), ("held-out", "held_out"), ("holdout", "held_out"), ("partial-test", "test"),
        ("split=extra", "extra"), ("cat", None), ("train_station", None), ("test tube", None), ("trains", None),
        ("interval", None), ("trainval", None), ("data", None), ("1", None), ("", None), ("тест", None),
    ],
)  # fmt: skip
def test_folders(name: str, split: str | None) -> None:
    assert SplitNames().of_folder(name) == split


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00001.parquet", "train"), ("data/dev-00000-of-00001.parquet", "dev"),
        ("eval-00000-of-00001-0a1b2c3d4e5f6789.parquet", "eval"), ("default/partial-train/0000.parquet", "train"),
        ("Validation/part-0.parquet", "validation"), ("year=2020/split=test/0.parquet", "test"),
        ("cats_test_000.parquet", "test"), ("imagenet-val-000012.tar", "val"), ("x_train", "train"), ("y_dev", "dev"),
        ("0000.parquet", None), ("latest.parquet", None), ("data/part-0.parquet", None), ("train_test.parquet", None),
        ("test/train-0.parquet", None), ("minival-0.parquet", None), ("train/train-0.parquet", "train"),
    ],
)  # fmt: skip
def test_paths(path: str, split: str | None) -> None:
    assert SplitNames().of_path(path) == split


def test_what_is_given_has_the_last_word() -> None:
    names = SplitNames({"Extra": "train", "old/*": "", "minival": "val", "shard-?": "test"})
    found = names.assign(
        ["extra/0.parquet", "old/train-0.parquet", "minival-00000-of-00001.parquet", "a/shard-1.parquet",
         "dev.parquet"],
        tally := Tally(), "in",
    )  # fmt: skip
    assert found == {"extra/0.parquet": "train", "minival-00000-of-00001.parquet": "val", "a/shard-1.parquet": "test",
                     "dev.parquet": "dev"}  # fmt: skip
    assert "old/train-0.parquet" in tally.lines()[1]
    assert SplitNames({"*": "train"}).assign(["test.parquet", "a.parquet"], Tally(), "in") == {
        "test.parquet": "train", "a.parquet": "train",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"splits\.a='b/c' is no name of a split"):
        SplitNames({"a": "b/c"})


@pytest.mark.parametrize(
    ("paths", "odd"),
    [
        (["train-0.parquet", "extra-0.parquet"], "extra-0.parquet names no known split"),
        (["foo-00000-of-00001.parquet", "bar-00000-of-00001.parquet"], "foo-00000.*bar-00000.*name no known split"),
        (["trainval.parquet"], "trainval"),
        (["trainval/0.parquet", "minival/0.parquet"], "minival"),
        (["train_test.parquet"], "or several"),
        (["mytrain.parquet", "mytest.parquet"], "mytrain.parquet, mytest.parquet name no known split"),
        (["setval_0.parquet", "settrain_0.parquet", "settrain_1.parquet"], "setval"),
        (["test/train-0.parquet", "test/train-1.parquet"], "or several"),
    ],
)
def test_unknown_splits_are_refused_with_the_setting_that_names_them(paths: list[str], odd: str) -> None:
    with pytest.raises(UserError, match=odd) as caught:
        SplitNames().assign(paths, Tally(), "in")
    assert "--splits '{" in str(caught.value) and "\n" not in str(caught.value)


def test_where_no_name_says_a_split_all_is_train_and_this_is_said() -> None:
    for paths in (["0000.parquet", "0001.parquet"], ["birds-00000-of-00002.parquet", "birds-00001-of-00002.parquet"]):
        found = SplitNames().assign(paths, tally := Tally(), "in")
        assert set(found.values()) == {"train"}
        assert tally.lines()[1:] == ["note: no name says a split, so all of it is train: in"]


def test_folders_that_become_one_split_are_named() -> None:
    """The Hub's Parquet copies lie in CONFIGURATION/SPLIT/NUMBER.parquet: two configurations double the pictures."""
    paths = ["plain/train/0.parquet", "plain/train/1.parquet", "plain/test/0.parquet", "augmented/train/0.parquet"]
    SplitNames().assign(paths, tally := Tally(), "in")
    (line,) = [line for line in tally.lines() if "together" in line]
    assert line.endswith("name it as the source (2): plain, augmented") and "make up train together" in line
    SplitNames().assign(["data/train/0.parquet", "data/test/0.parquet"], tally := Tally(), "in")
    assert "together" not in "\n".join(tally.lines())
