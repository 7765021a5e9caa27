"""The tally counts by reason and extension, warns above 1 %, refuses above 10 %, and can be merged and stored."""

from __future__ import annotations

import json
import re

import pytest

from data.shards.tally import EXAMPLES, SHOWN, Tally, extension_in
from launch.command.cli import UserError


def tally_of(taken: int, lost: int, of: str = "pictures") -> Tally:
    tally = Tally()
    tally.took(of, taken)
    for i in range(lost):
        tally.left_out("no bytes", f"cat/{i}.JPG", of=of)
    return tally


def test_the_table_has_reasons_extensions_and_examples() -> None:
    tally = tally_of(90, 7)
    tally.took("captions", 3)
    tally.left_out("an unsupported format", "a.heic")
    tally.left_out("an unsupported format", "b.HEIC")
    tally.left_out("an unsupported format", "c.pdf")
    tally.left_out("no picture of this name", "gone", of="captions")
    tally.noted("read as UTF-16", "b.txt", count=2)
    tally.ignored("system files", "x/.DS_Store", count=4)
    tally.noted("no name says a split", "in")
    assert tally.lines() == [
        "taken: 90 pictures, 3 captions",
        "left out of the pictures: 7, no bytes (7 .jpg): cat/0.JPG, cat/1.JPG, cat/2.JPG, cat/3.JPG, cat/4.JPG, …",
        "left out of the pictures: 3, an unsupported format (2 .heic, 1 .pdf): a.heic, b.HEIC, c.pdf",
        "left out of the captions: 1, no picture of this name: gone",
        "ignored: 4, system files: x/.DS_Store, …",
        "note: read as UTF-16 (2): b.txt, …",
        "note: no name says a split: in",
    ]
    assert (tally.lost(), tally.lost("captions"), tally.lost("labels")) == (10, 1, 0)
    assert Tally().lines() == ["taken: nothing"]


@pytest.mark.parametrize(("taken", "lost", "warned"), [(100, 0, False), (99, 1, False), (98, 2, True), (90, 10, True)])
def test_above_one_per_cent_is_a_warning(taken: int, lost: int, warned: bool) -> None:
    warnings = tally_of(taken, lost).settle()
    assert bool(warnings) == warned
    if warned:
        assert re.fullmatch(r"warning: \d+ of 100 pictures \(\d+\.0%\) are left out: .*cat/0\.JPG.*", warnings[0])


def test_above_ten_per_cent_is_an_error_unless_allowed() -> None:
    tally = tally_of(89, 11)
    with pytest.raises(
        UserError, match=r"allow_left_out=0\.1 is exceeded: 11 of 100 pictures \(11\.0%\).*no bytes"
    ) as e:
        tally.settle()
    assert "\n" not in str(e.value)
    assert str(e.value).endswith("set allow_left_out to 0.11 or more")
    with pytest.raises(UserError, match=r"max_lost=0\.05"):
        tally_of(94, 6).settle(0.05, "max_lost")
    assert tally.settle(0.11) == tally.settle(True) == tally_of(89, 11).settle(1.0)
    with pytest.raises(UserError):
        tally.settle(False)
    with pytest.raises(UserError, match="1 of 1 pictures"):
        tally_of(0, 1).settle()


@pytest.mark.parametrize("lost", [1, 2, 3, 5, 7, 333])
def test_the_share_that_the_error_names_is_enough(lost: int) -> None:
    with pytest.raises(UserError) as caught:
        tally_of(1, lost).settle()
    share = float(re.search(r"to ([\d.]+) or more", str(caught.value)).group(1))  # type: ignore[union-attr]
    assert tally_of(1, lost).settle(share)


def test_each_sort_has_its_own_share_and_files_that_are_no_data_have_none() -> None:
    tally = tally_of(1000, 0)
    tally.ignored("system files", "Thumbs.db", count=5000)
    tally.noted("read as UTF-16", "b.txt", count=5000)
    assert tally.settle() == []
    tally.left_out("no picture of this name", "a", of="captions")
    with pytest.raises(UserError, match="1 of 1 captions"):
        tally.settle()


def test_merged_and_stored_tallies_are_the_same() -> None:
    parts = [tally_of(3, 4), tally_of(5, 2), tally_of(1, 1, "captions")]
    total = parts[0] + parts[1] + parts[2]
    assert (total.taken, total.lost(), total.lost("captions")) == ({"pictures": 8, "captions": 1}, 6, 1)
    assert parts[0].lost() == 4, "adding changes neither part"
    again = Tally.from_json(json.loads(json.dumps(total.to_json())))
    assert again.lines() == total.lines()
    again.left_out("no bytes", "z.jpg")
    assert again.lost() == 7 and len(again.lines()) == len(total.lines())


def test_reasons_are_bounded() -> None:
    tally = Tally()
    for i in range(1000):
        tally.left_out(f"{i}x{i} pixels are too many", f"{i}.png")
    (_, line) = tally.lines()
    assert line.startswith("left out of the pictures: 1000, 0x0 pixels are too many (1000 .png)")
    assert line.count(".png") == 1 + EXAMPLES
    for letter in "abcdefghijklmnopqrstuvwxyz":
        tally.left_out(f"reason {letter}", letter)
    assert len(tally.lines()) == 1 + SHOWN + 1
    assert tally.lines()[-1] == "left out of the pictures: 15 for 15 other reasons"


@pytest.mark.parametrize(
    ("name", "extension"),
    [("a/b.c.JPG", ".jpg"), ("a.d/b", "without extension"), (".DS_Store", "without extension"), ("a\\b.png", ".png"),
     ("b.", "without extension"), ("", "without extension"), ("._a.jpg", ".jpg")],
)  # fmt: skip
def test_extensions(name: str, extension: str) -> None:
    assert extension_in(name) == extension
