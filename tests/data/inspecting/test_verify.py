"""Verification finds what was damaged, and nothing else; its quarantine list keeps the loader away from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.inspect import FOUND, main
from data.inspecting.verify import verify
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from data.shards.loading import load_index
from data.shards.scanning import build_index
from launch.command.cli import UserError
from tests.data.making import code_set, encoded, jpeg, picture_set, write_tar

SMALL = TransformConfig(size=8, fit="stretch")


def damaged_set(folder: Path) -> Path:
    """Two sound shards of five, then one with every kind of fault; the path of the index."""

    picture_set(folder, [5, 5])
    other = encoded(np.zeros((5, 5, 3), np.uint8), "PNG")
    write_tar(
        folder / "set-02.tar",
        [
            ("fine", {"jpg": jpeg(90), "cls": b"0"}),
            ("cut", {"jpg": jpeg(91)[:200], "cls": b"0"}),
            ("nothing", {"jpg": b"", "cls": b"0"}),
            ("nolabel", {"jpg": jpeg(92), "cls": b"cat"}),
            ("highlabel", {"jpg": jpeg(93), "cls": b"3"}),
            ("misnamed", {"jpg": other, "cls": b"0"}),
            ("again", {"jpg": jpeg(2), "cls": b"2"}),
            ("otherwise", {"jpg": jpeg(3), "cls": b"1"}),
        ],
    )
    tars = [folder / f"set-{i:02d}.tar" for i in range(3)]
    build_index(tars, base=folder, name="set", classes=["a", "b", "c"]).save(folder / "set.json")
    return folder / "set.json"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_sound_set(tmp_path: Path, processes: int) -> None:
    found = verify(load_index(picture_set(tmp_path, [5, 4]), with_offsets=False), processes=processes)
    assert (found.sound, found.samples, found.shards) == (True, 9, 2)
    assert not (found.unsound or found.misnamed or found.duplicates)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_fault_is_found_once(tmp_path: Path, processes: int) -> None:
    found = verify(load_index(damaged_set(tmp_path), with_offsets=False), processes=processes)
    assert {(bad.key, bad.position) for bad in found.unsound} == {
        *(("cut", 1), ("nothing", 2), ("nolabel", 3), ("highlabel", 4))
    }
    assert [(bad.key, bad.why) for bad in found.misnamed] == [("misnamed", "called .jpg, is png")]
    assert found.duplicates == [["set-00.tar s00-0002", "set-02.tar again"]]
    assert found.conflicts == [["set-00.tar s00-0003 (a)", "set-02.tar otherwise (b)"]]
    assert not found.damaged_tars and not found.sound
    assert found.samples == 18


def test_damaged_tars(tmp_path: Path) -> None:
    index = picture_set(tmp_path, [5, 5, 5])
    whole = (tmp_path / "set-01.tar").read_bytes()
    (tmp_path / "set-01.tar").write_bytes(whole[:4000])
    (tmp_path / "set-02.tar").unlink()
    found = verify(load_index(index, with_offsets=False))
    assert set(found.damaged_tars) == {"set-01.tar", "set-02.tar"}
    lost = {url: [bad.position for bad in found.unsound if bad.url == url] for url in ("set-01.tar", "set-02.tar")}
    assert lost["set-02.tar"] == [0, 1, 2, 3, 4]
    assert lost["set-01.tar"] and lost["set-01.tar"][-1] == 4


def test_the_command_writes_what_the_loader_honours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = damaged_set(tmp_path)
    assert main([str(index)]) == 0
    assert "18 samples (pictures) in 3 shards" in capsys.readouterr().out
    report = tmp_path / "report.json"
    assert main([str(index), "--verify", "--quarantine", "--report", str(report), "--processes", "1"]) == FOUND
    told = capsys.readouterr().out
    assert "unsound samples: 4" in told and "set-02.tar nothing: no bytes" in told
    assert len(json.loads(report.read_text())["unsound"]) == 4
    listed = json.loads((tmp_path / "set.quarantine.json").read_text())["shards"]
    assert set(listed) == {"set-02.tar"} and set(listed["set-02.tar"]) == {"1", "2", "3", "4"}
    keys = [key for batch in every_sample(str(index), SMALL, batch_size=8, threads=1) for key in batch.keys]
    assert len(keys) == 14
    assert not {"cut", "nothing", "nolabel", "highlabel"} & set(keys)


def test_a_quarantined_sample_is_kept_from_training_though_it_decodes(tmp_path: Path) -> None:
    from data.shards import quarantine

    index = picture_set(tmp_path, [5])
    quarantine.save(quarantine.quarantine_path(index), {"set-00.tar": {2: "seen by a person"}})
    keys = [key for batch in every_sample(str(index), SMALL, batch_size=8, threads=1) for key in batch.keys]
    assert keys == ["s00-0000", "s00-0001", "s00-0003", "s00-0004"]


def test_codes(tmp_path: Path) -> None:
    index = code_set(tmp_path, [4, 3])
    assert verify(load_index(index, with_offsets=False)).sound
    assert main([str(index), "--verify", "--processes", "1"]) == 0
    with pytest.raises(UserError, match=r"contact_sheet shows pictures, and .* holds codes: leave it out"):
        main([str(index), "--contact_sheet", str(tmp_path / "sheet.png")])


def test_a_contact_sheet(tmp_path: Path) -> None:
    index = damaged_set(tmp_path)
    assert main([str(index), "--contact-sheet", str(tmp_path / "a.png"), "--count", "18", "--side", "40"]) == 0
    main([str(index), "--contact_sheet", str(tmp_path / "b.png"), "--count", "18", "--side", "40"])
    main([str(index), "--contact_sheet", str(tmp_path / "c.png"), "--count", "10", "--side", "40", "--seed", "1"])
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(sheet, np.asarray(Image.open(tmp_path / "b.png")))
    red = (sheet == (170, 30, 30)).all(axis=2)
    assert red.sum() > 3 * 40 * 40, "samples that can't be decoded are red"
    assert Image.open(tmp_path / "c.png").size != sheet.shape[1::-1]


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    for words, told in (
        (["nowhere.json"], "nowhere.json is missing"),
        (["x.json", "--quarantine"], "add --verify"),
        (["x.json", "--count", "0"], "set it to 1 or more"),
    ):
        with pytest.raises(UserError, match=told):
            main(words)


def test_outputs_never_replace_what_is_inspected_or_each_other(tmp_path: Path) -> None:
    index = picture_set(tmp_path / "set", [3])
    tar = Path(load_index(index).location(0))
    before = tar.read_bytes()
    for words, told in (
        (["--contact_sheet", str(tar)], "contact_sheet=.* is a file that this command reads"),
        (["--verify", "--report", str(tar)], "report=.* is a file that this command reads"),
        (["--verify", "--report", "x.png", "--contact_sheet", "./x.png"], "report and contact_sheet are the same file"),
    ):
        with pytest.raises(UserError, match=told):
            main([str(index), *words])
    assert tar.read_bytes() == before
