"""Pictures in tars of other tools are encoded whole: names with dots, a key twice, words for labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.index import main as index_main
from data.reading.stream import every_code
from data.shards.loading import load_index
from launch.command.cli import UserError
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.encode import encode
from tests.data.making import jpeg, write_tar
from tests.stage2_prior.conftest import Coded


def encoded(coded: Coded, tar: Path, *options: str) -> dict[str, int]:
    """Labels by key of a tar's codes."""
    index, out = tar.with_suffix(".json"), tar.with_suffix(".codes")
    assert index_main([str(tar), str(index), "--hashes", "false", *options]) == 0
    encode(EncodeConfig(tokenizer=coded.tokenizer, data=str(index), out=str(out), verify=4))
    batches = every_code(str(out / "index.json"), batch_size=3)
    return {key: int(label) for batch in batches for key, label in zip(batch.keys, batch.label_B, strict=True)}


def test_names_with_dots_and_a_key_twice(coded: Coded, tmp_path: Path) -> None:
    names = ["frame.0001", "frame.0002", "other\\frame.1", "frame.0001"]
    tar = write_tar(tmp_path / "a.tar", [(name, {"jpg": jpeg(i)}) for i, name in enumerate(names)])
    found = encoded(coded, tar, "--keys", "last_dot")
    assert list(found) == ["frame_0001", "frame_0002", "other/frame_1", "frame_0001-3"]


def test_a_name_made_for_a_key_twice_may_be_there_already(coded: Coded, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [(name, {"jpg": jpeg(i)}) for i, name in enumerate(["b-3", "b", "c", "b"])])
    assert list(encoded(coded, tar)) == ["b-3", "b", "c", "b-3-3"]


def test_labels_by_name(coded: Coded, tmp_path: Path) -> None:
    things = [(str(i), {"jpg": jpeg(i), "cls": name}) for i, name in enumerate([b"dog", b"cat", b"dog"])]
    assert encoded(coded, write_tar(tmp_path / "a.tar", things)) == {"0": 1, "1": 0, "2": 1}
    assert load_index(tmp_path / "a.codes/index.json").classes == ["cat", "dog"]


def test_numbers_without_names_say_the_way_out_and_it_works(coded: Coded, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [(str(i), {"jpg": jpeg(i), "cls": b"%d" % i}) for i in range(3)])
    with pytest.raises(UserError, match=r"data\.index INDEX\.json NEW\.json --classes FILE"):
        encoded(coded, tar)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    index_main([str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--classes", str(tmp_path / "names.txt")])
    encode(EncodeConfig(tokenizer=coded.tokenizer, data=str(tmp_path / "b.json"), out=str(tmp_path / "codes")))
    (batch,) = every_code(str(tmp_path / "codes/index.json"), batch_size=3)
    assert batch.label_B.tolist() == [0, 1, 2]
