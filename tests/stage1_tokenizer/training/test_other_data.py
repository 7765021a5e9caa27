"""A tokenizer's run keeps to its data, wherever they lie and whatever comes to lie at their paths."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launch.command.cli import UserError
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.train import check, other_classes, train
from tests.data.shards.test_identity import write_set
from tests.stage1_tokenizer.training.test_train import configured


def job(place: Path, **changes: object) -> TokenizerTrainConfig:
    sets = {"data__index": place / "train" / "index.json", "data__held_out": place / "held_out" / "index.json"}
    mixed = {"data__mixture": json.dumps({str(place / "more" / "index.json"): 0.5})}
    common = {"steps": 2, "optimizer__decay": "constant", "data__batch_size": 4}
    return configured(place / "run", **{**sets, **mixed, **common, **changes})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for seed, name in enumerate(("train", "held_out", "more")):
        write_set(tmp_path / name, seed=seed)
    return tmp_path


@pytest.mark.parametrize("name", ["train", "held_out", "more"])
def test_other_data_at_the_same_path_are_refused_unless_allowed(place: Path, name: str) -> None:
    setting = {"train": "data.index", "held_out": "data.held_out", "more": "data.mixture"}[name]
    assert train(job(place)) == 0
    shutil.rmtree(place / name)
    write_set(place / name, seed=9)
    with pytest.raises(UserError, match=rf"{setting}.*another content: .*allow_changes=\[{setting}\]"):
        train(job(place, steps=3))
    assert train(job(place, steps=3, run__allow_changes=f"[{setting}]")) == 0
    assert f"other data in {setting}" in (place / "run" / "log.txt").read_text()
    assert train(job(place, steps=4)) == 0


def test_a_moved_set_goes_on(place: Path) -> None:
    assert train(job(place)) == 0
    (place / "train").rename(place / "moved")
    assert train(job(place, steps=3, data__index=place / "moved" / "index.json")) == 0


def test_a_shard_replaced_under_its_index_is_found_by_its_size(place: Path) -> None:
    write_set(place / "other", each=40, side=64)
    (place / "other" / "pictures-000001.tar").replace(place / "train" / "pictures-000001.tar")
    with pytest.raises(UserError, match=r"another size than its index says: .*pictures-000001\.tar"):
        train(job(place))
    assert not (place / "run").exists()


def test_other_classes_in_a_mixture_are_named(place: Path) -> None:
    shutil.rmtree(place / "more")
    write_set(place / "more", classes=("dog", "emu"))
    with pytest.raises(UserError, match=r"data\.mixture.* has classes that data\.index has not: emu;"):
        train(job(place))


def test_other_classes_of_held_out_pictures_are_told(place: Path) -> None:
    shutil.rmtree(place / "held_out")
    write_set(place / "held_out", classes=("dog", "emu"))
    assert other_classes(check(job(place))).endswith("has classes that the training has not: emu")
    shutil.rmtree(place / "held_out")
    write_set(place / "held_out", classes=("dog",))
    assert other_classes(check(job(place))) == ""
