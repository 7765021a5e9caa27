"""Prompts, classes and folders of what is sampled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from data.pictures.config import TransformConfig
from launch.command.cli import UserError
from stage2_prior.config.sampling import InpaintConfig
from stage2_prior.sampling.conditions import Classes, folder_names, numbered, prompts_of
from stage2_prior.sampling.holes import check_hole, hole, read, requested_classes, requested_texts
from tests.stage2_prior.tiny import SOURCE, tiny_prior


def test_prompts_are_a_files_lines_without_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("  a box \n\n a dot\n   \n")
    assert prompts_of("ignored", str(tmp_path / "prompts.txt")) == ["a box", "a dot"]
    assert prompts_of("one", None) == ["one"]
    assert prompts_of(None, None) == []


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    for name, message in (("empty.txt", "is empty"), ("no.txt", "can't be read")):
        with pytest.raises(UserError, match=message):
            prompts_of(None, str(tmp_path / name))


def test_folders_of_texts_are_numbered_and_cut() -> None:
    assert numbered(["a/b: c", "x" * 99, ""]) == ["0000 a_b_ c", "0001 " + "x" * 60, "0002"]


def test_folders_of_classes_that_clash_are_numbers() -> None:
    assert folder_names([0, 1, 2, -1], ["a/b", "a:b", "c"]) == ["class-0", "class-1", "c", "all"]
    assert folder_names([0], ["codes"]) == ["class-0"], "a folder of the sampling's own"


def test_classes_once_each_in_the_order_asked_for() -> None:
    prior = tiny_prior()
    found = Classes(prior, ["star", "0", "star", "none"])
    assert found.labels == [2, 0, -1] and found.guidable
    assert [found.names[label] for label in found.labels] == ["star", "circle", None]
    assert found.described(4)[0] == {"label": 2, "name": "star", "folder": "star", "count": 4}
    vocabulary = prior.vocabulary
    assert found.tokens([2, -1]).tolist() == [vocabulary.class_tokens(torch.tensor([2])).item(), vocabulary.null]
    assert Classes(prior, None).labels == [0, 1, 2]
    assert (found.given([2]), found.shown(2)) == (None, {})


def test_one_class_or_text_is_for_all_given_pictures() -> None:
    prior = tiny_prior()
    assert requested_classes(None, [1, -1], prior) == [1, -1]
    assert requested_classes(["star"], [1, -1], prior) == [2, 2]
    assert requested_classes(["star", "0"], [1, -1], prior) == [2, 0]
    config = InpaintConfig(prior="", tokenizer="", out="", given="x", prompt="a box")
    assert requested_texts(config, ["own", ""]) == ["a box", "a box"]
    assert requested_texts(InpaintConfig(prior="", tokenizer="", out="", given="x"), ["own", ""]) == ["own", ""]


def test_a_wrong_number_of_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("a\nb")
    config = InpaintConfig(prior="", tokenizer="", out="", given="x", prompts=str(tmp_path / "two.txt"))
    assert requested_texts(config, ["", ""]) == ["a", "b"]
    with pytest.raises(UserError, match=r"two\.txt has 2 texts for 3 pictures: give one for each"):
        requested_texts(config, ["", "", ""])


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("top", {(y, x) for y in range(2) for x in range(8)}),
        ("bottom", {(y, x) for y in range(6, 8) for x in range(8)}),
        ("left", {(y, x) for y in range(8) for x in range(2)}),
        ("right", {(y, x) for y in range(8) for x in range(6, 8)}),
        ("middle", {(y, x) for y in range(3, 5) for x in range(3, 5)}),
        ("border", {(y, x) for y in range(8) for x in range(8)} - {(y, x) for y in range(1, 7) for x in range(1, 7)}),
    ],
)
def test_what_of_a_picture_is_kept(keep: str, kept: set[tuple[int, int]]) -> None:
    config = InpaintConfig(prior="", tokenizer="", out="", given="x", keep=keep, share=0.25)  # type: ignore[arg-type]
    assert {tuple(place) for place in (~hole(config, (8, 8))).nonzero().tolist()} == kept


def test_given_files_have_the_sizes_of_upright_pictures(tmp_path: Path) -> None:
    Image.new("L", (24, 20)).save(tmp_path / "one.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # by a quarter
    Image.new("L", (30, 10)).save(tmp_path / "two.jpg", exif=turned)
    config = InpaintConfig(prior="", tokenizer="", out="", given=str(tmp_path))
    x_BCHW, names, labels, captions, sizes = read(config, TransformConfig(size=12, channels=1), tiny_prior())
    assert x_BCHW.shape == (2, 1, 12, 12) and names == ["one", "two"]
    assert (labels, captions) == ([-1, -1], ["", ""])
    assert sizes == {(24, 20), (10, 30)}


def test_a_hole_of_nothing_or_of_all_is_refused() -> None:
    config = InpaintConfig(prior="", tokenizer="", out="", given="x", keep="left", share=0.5)
    codes = SOURCE.positions
    for value, message in ((True, "leaves no code in place"), (False, "leaves all codes in place")):
        with pytest.raises(UserError, match=f"keep=left with share=0.5 {message}"):
            check_hole(tiny_prior(kind="masked"), torch.full((codes,), value), config)
    raster = tiny_prior()
    last = torch.arange(codes) >= 5
    check_hole(raster, last, config)
    with pytest.raises(UserError, match="keeps codes after the hole"):
        check_hole(raster, last & (torch.arange(codes) < codes - 1), config)
