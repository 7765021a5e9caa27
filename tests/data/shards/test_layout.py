"""Which member is the picture: by the set's rule, by a setting, or refused; never a mask without a word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from data.shards.identity import Identity
from data.shards.layout import GENERAL, Layout, no_data, picture_among
from data.shards.loading import load_index
from data.shards.sample import DamagedSampleError, picture_member
from data.shards.scanning import index_samples
from data.shards.settling import settled
from data.shards.tally import Tally
from launch.command.cli import UserError
from tests.data.making import encoded, jpeg, sample
from tests.data.shards.tars import scanned, tar_bytes, tar_file

PICTURE = jpeg(1)
FORMER = Layout(former=True)


def settle(
    names: Sequence[str], picture: Sequence[str] = (), keys: str = "first_dot", classes: Sequence[str] = ()
) -> tuple[Layout, Tally]:
    """The layout of a set of members of these names."""
    asked = Layout(keys, tuple(picture), pieces=True)  # type: ignore[arg-type]
    layout, _, tally = settled([scanned(tar_bytes([(name, PICTURE) for name in names]), asked)], asked, classes)
    return layout, tally


def spread(*extensions: str, count: int = 4) -> list[str]:
    """So many samples, each with these extensions."""
    return [f"{i:03d}.{extension}" for i in range(count) for extension in extensions]


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        (["jpg"], ("jpg",)),
        (["depth.png", "jpg"], ("jpg",)),
        (["seg.png", "png", "txt"], ("png",)),
        (["png", "jpg"], ("jpg",)),  # photographs are stored with loss, masks without
        (["mask.png"], ("mask.png",)),  # a set of masks
        (["image.jpg", "cls", "json"], ("image.jpg",)),
        (["JPEG", "TXT"], ("jpeg",)),
        (["jfif"], ("jfif",)),
        (["webp", "gif"], ("webp",)),
    ],
)
def test_the_rule_for_a_whole_set(extensions: list[str], expected: tuple[str, ...]) -> None:
    layout, tally = settle(spread(*extensions))
    assert layout.picture == expected and layout.keys == "first_dot"
    assert tally.taken["pictures"] == 4
    several = sum(extension.lower().rpartition(".")[2] in ("jpg", "png", "webp", "gif") for extension in extensions) > 1
    assert any("several pictures" in line for line in tally.lines()) == several


def test_pictures_of_different_formats_are_all_taken() -> None:
    layout, tally = settle([*spread("jpg"), *[f"p{i}.png" for i in range(3)], "w.webp"])
    assert layout.picture == ("jpg", "webp", "png") and tally.taken["pictures"] == 8
    assert len(tally.lines()) == 1


def test_a_mask_whose_picture_is_missing_is_left_out_not_taken() -> None:
    for extension, why in (("depth.png", "no picture called jpg"), ("png", "no picture called jpg")):
        layout, tally = settle([*spread("jpg", extension, count=20), f"alone.{extension}"])
        assert layout.picture == ("jpg",) and tally.taken["pictures"] == 20
        assert tally.lost() == 1
        assert any(why in line and f"alone.{extension}" in line for line in tally.lines())


def test_a_setting_names_the_picture() -> None:
    assert settle(spread("jpg", "depth.png"), ["depth.png"])[0].picture == ("depth.png",)
    assert settle(spread("jpg", "png"), ["png", "jpg"])[0].picture == ("png", "jpg")
    with pytest.raises(UserError, match=r"no pictures with the extension webp .* 4 jpg"):
        settle(spread("jpg"), ["webp"])


def test_what_the_names_leave_open_is_refused_with_both_ways_out() -> None:
    with pytest.raises(UserError, match=r"sample 000 holds 2 pictures.*image\.png.*keys=last_dot.*picture=") as caught:
        settle(spread("mask.png", "image.png"))
    assert "\n" not in str(caught.value)
    assert settle(spread("mask.png", "image.png"), ["image.png"])[0].picture == ("image.png",)


@pytest.mark.parametrize(
    "names",
    [
        [f"frame.{i:04d}.jpg" for i in range(8)],
        [f"v1.{i}.jpg" for i in range(3)] + [f"v1.{i}.txt" for i in range(3)],
        ["a.0.jpg", "b.1.jpg", "c.2.jpg"],  # none together, but no label or caption would be found
        ["cat.1.png", "cat.2.png", "dog.1.png"],
    ],
)
def test_names_with_dots_are_refused_and_a_setting_reads_them(names: list[str]) -> None:
    with pytest.raises(UserError, match="if the names themselves have dots, set keys=last_dot"):
        settle(names)
    layout, tally = settle(names, keys="last_dot")
    assert tally.taken["pictures"] == sum(not name.endswith(".txt") for name in names)
    assert tally.taken["captions"] == sum(name.endswith(".txt") for name in names)
    assert not tally.lost() and layout.keys == "last_dot"


def test_labels_lost_by_dots_in_names_are_told() -> None:
    names = [f"{i}.v2.{end}" for i in range(4) for end in ("jpg", "cls", "txt")]
    layout, tally = settle(names)
    assert layout.picture == ("v2.jpg",) and tally.lost("labels") == tally.lost("captions") == 4
    with pytest.raises(UserError, match=r"labels called \.v2\.cls .*keys=last_dot"):
        tally.settle()
    _, tally = settle(names, keys="last_dot")
    assert not tally.lost("labels") and (tally.taken["labels"], tally.taken["captions"]) == (4, 4)
    assert settle(spread("image.jpg", "cls", "txt"))[1].taken["labels"] == 4


def test_a_few_names_with_dots_are_told() -> None:
    _, tally = settle([*spread("jpg", count=30), "odd.1.jpg", "odd.2.jpg"])
    assert tally.lost() == 2
    assert any("if names have dots, set keys=last_dot" in line and "odd.1.jpg" in line for line in tally.lines())


def test_a_tar_without_pictures_says_what_is_there() -> None:
    with pytest.raises(UserError, match=r"no pictures in these tars; extensions there: 4 txt, 4 json"):
        settle(spread("txt", "json"))


def test_one_sample_by_the_general_rule() -> None:
    assert picture_among(["depth.png", "jpg", "cls"], GENERAL) == "jpg"
    assert picture_among(["mask.png"], GENERAL) == "mask.png"
    assert picture_among(["cls"], GENERAL) is None
    with pytest.raises(ValueError, match="none with a plain extension"):
        picture_among(["a.png", "b.png"], GENERAL)
    with pytest.raises(DamagedSampleError, match="name the picture's"):
        picture_member(sample(a_png=b"", b_png=b""))


def test_indexes_of_earlier_versions_read_what_they_did_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    assert picture_among(["depth.png", "jpg"], FORMER) == "depth.png"
    old = sample(depth_png=encoded_mask(), jpg=PICTURE)._replace(layout=FORMER)
    assert picture_member(old) == "depth.png"
    assert any("read is depth.png" in line and "data.index" in line for line in caplog.messages)


def encoded_mask() -> bytes:
    import numpy as np

    return encoded(np.zeros((4, 4), np.uint8), "PNG")


def test_another_choice_of_members_is_another_set(tmp_path: Path) -> None:
    tar = tar_file(tmp_path / "a.tar", [(name, PICTURE) for name in spread("jpg", "depth.png")])
    pictures, depths = (
        Identity.of(index_samples([tar], layout=Layout(picture=picture))[0]) for picture in ((), ("depth.png",))
    )
    assert pictures.digest != depths.digest
    assert depths.difference(pictures.to_dict()) == "it is of another choice of the tars' members"
    assert pictures.difference(pictures.to_dict()) == ""
    before = {**pictures.to_dict(), "made_from": {}}  # of a run begun before indexes said it
    assert pictures.difference(before) == ""


def test_layouts_survive_json() -> None:
    for layout in (GENERAL, Layout("last_dot", ("jpg", "png"), "names", True)):
        assert Layout.from_json(layout.to_json()) == layout
    for bad in ({"keys": "middle"}, {"picture": "jpg"}, {"labels": "x"}):
        with pytest.raises(ValueError, match="unknown layout"):
            Layout.from_json(bad)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("._000.jpg", "macOS"),
        ("a/._b.png", "macOS"),
        ("__MACOSX/a/b.jpg", "macOS"),
        (".DS_Store", "hidden"),
        ("a/.cache", "hidden"),
        ("a/Thumbs.db", "Windows"),
        ("desktop.ini", "Windows"),
        ("PaxHeader/000.jpg", "archiver"),
        ("a/PaxHeaders.17/b.jpg", "archiver"),
    ],
)
def test_what_systems_and_archivers_add_is_no_data(name: str, what: str) -> None:
    assert what in no_data(name)


@pytest.mark.parametrize("name", ["000.jpg", "a.b/000.jpg", "a_.jpg", "db.ini/x.jpg", "x/PaxHeaderless.jpg"])
def test_all_else_is_data(name: str) -> None:
    assert no_data(name) == ""


def test_tars_that_are_read_without_an_index_tell_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar = tar_file(tmp_path / "a.tar", [(name, PICTURE) for name in [*spread("png", "jpg"), "x.depth.png"]])
    assert load_index(tar).layout.picture == ("jpg",)
    told = "\n".join(caplog.messages)
    assert "several pictures (jpg, png), of which jpg is taken" in told and "x.depth.png" in told
