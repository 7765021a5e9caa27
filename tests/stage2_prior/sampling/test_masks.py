"""Masks for inpainting: what is one, where it lies, and one right line for all that is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures.config import TransformConfig
from launch.command.cli import UserError
from stage2_prior.config.sampling import InpaintConfig
from stage2_prior.inpaint import inpaint
from stage2_prior.sampling.masks import read_mask
from tests.data.making import bomb
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.sampling.test_holes import drawn_codes, prepared

TRANSFORM = TransformConfig(size=16, channels=1)


def half(height: int = 16, width: int = 16, kind: Any = np.uint8, white: int = 255) -> np.ndarray:
    """White on the left, black on the right."""
    pixels_HW = np.zeros((height, width), kind)
    pixels_HW[:, : width // 2] = white
    return pixels_HW


LEFT = torch.from_numpy(half()) > 0


def saved(pixels: np.ndarray | Image.Image, place: Path, name: str = "mask.png", **options: Any) -> str:
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(place / name, **options)
    return str(place / name)


def palette() -> Image.Image:
    return Image.fromarray(half()).convert("P")


SAME: dict[str, Callable[[Path], str]] = {
    "grey": lambda place: saved(half(), place),
    "one bit": lambda place: saved(Image.fromarray(half()).convert("1"), place),
    "RGB": lambda place: saved(Image.fromarray(half()).convert("RGB"), place),
    "opaque RGBA": lambda place: saved(Image.fromarray(half()).convert("RGBA"), place),
    "a palette": lambda place: saved(palette(), place),
    "16 bits": lambda place: saved(Image.fromarray(half(kind=np.uint16, white=65535)), place),
    "bytes in 32 bits": lambda place: saved(half(kind=np.int32), place, "mask.tif"),
    "fractions": lambda place: saved(half(kind=np.float32), place, "mask.tif"),
    "a JPEG": lambda place: saved(half(64, 64), place, "mask.jpg"),
    "a larger square": lambda place: saved(half(100, 100), place),
    "a smaller square": lambda place: saved(half(4, 4), place),
    "almost black and white": lambda place: saved(half(white=230) + 20, place),
}


@pytest.mark.parametrize("name", SAME)
def test_one_mask_in_many_forms(name: str, tmp_path: Path) -> None:
    assert torch.equal(read_mask(SAME[name](tmp_path), TRANSFORM, {(24, 20)}), LEFT)


def test_a_mask_of_the_pictures_size_lies_where_they_do(tmp_path: Path) -> None:
    pixels_HW = half(16, 32)  # 32 wide: the middle square is from 8 to 24, and white up to 16
    mask = saved(pixels_HW, tmp_path)
    assert torch.equal(read_mask(mask, TRANSFORM, {(32, 16)}), LEFT)
    padded = read_mask(mask, replace(TRANSFORM, size=64, fit="pad"), {(32, 16)})
    assert padded[24:40, 16:32].all() and padded.sum() == 16 * 16
    assert torch.equal(read_mask(mask, replace(TRANSFORM, fit="stretch"), {(32, 16)}), LEFT)


def test_soft_edges_are_white_above_the_middle(tmp_path: Path) -> None:
    pixels_HW = half()
    pixels_HW[0, :3] = (127, 128, 126)
    wanted = LEFT.clone()
    wanted[0, :3] = torch.tensor([False, True, False])
    assert torch.equal(read_mask(saved(pixels_HW, tmp_path), TRANSFORM, set()), wanted)


@pytest.mark.parametrize(
    ("value", "grey"), [(63, False), (64, False), (65, True), (190, True), (191, False), (192, False)]
)
def test_where_black_and_white_end(value: int, grey: bool, tmp_path: Path) -> None:
    """Up to 64 is black, from 191 on white; a tenth of the pixels may lie between them."""
    pixels_HW = half(20, 20)
    pixels_HW.flat[:41] = value  # 41 of 400 are more than a tenth
    place = saved(pixels_HW, tmp_path)
    if grey:
        with pytest.raises(UserError, match="10% of its pixels are neither black"):
            read_mask(place, TRANSFORM, set())
    else:
        read_mask(place, TRANSFORM, set())
    pixels_HW = half(20, 20)
    pixels_HW.flat[:40] = value
    read_mask(saved(pixels_HW, tmp_path), TRANSFORM, set())


def test_where_colour_begins(tmp_path: Path) -> None:
    """A difference of 48 between channels is a JPEG's noise; of more pixels than one in a thousand it is colour."""
    pixels_HWC = half(50, 50)[:, :, None].repeat(3, 2)
    for count, difference, coloured in ((2500, 48, False), (2, 49, False), (3, 49, True), (3, 48, False)):
        tinted = pixels_HWC.copy()
        dark = np.argwhere(tinted[:, :, 0] == 0)
        bright = np.argwhere(tinted[:, :, 0] == 255)
        for y, x in np.concatenate([dark, bright])[:count]:
            tinted[y, x, 1] = difference if tinted[y, x, 1] == 0 else 255 - difference
        place = saved(tinted, tmp_path)
        if coloured:
            with pytest.raises(UserError, match="is in colour"):
                read_mask(place, TRANSFORM, set())
        else:
            read_mask(place, TRANSFORM, set())


def test_a_turned_mask_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # 90 degrees clockwise: left becomes top
    mask = saved(half(64, 64), tmp_path, "mask.jpg", exif=exif.tobytes())
    assert torch.equal(read_mask(mask, TRANSFORM, set()), LEFT.T)


def photo(place: Path) -> str:
    y, x = np.mgrid[:32, :32]
    return saved((y * 4 + x * 4).astype(np.uint8), place)


def coloured(place: Path) -> str:
    pixels_HWC = np.zeros((16, 16, 3), np.uint8)
    pixels_HWC[:, :8, 0] = 255
    return saved(pixels_HWC, place)


def see_through(place: Path) -> str:
    pixels_HWC = np.zeros((16, 16, 4), np.uint8)
    pixels_HWC[:, 8:, 3] = 255
    return saved(pixels_HWC, place)


def animated(place: Path) -> str:
    frames = [Image.fromarray(half()), Image.fromarray(255 - half())]
    frames[0].save(place / "mask.gif", save_all=True, append_images=frames[1:])
    return str(place / "mask.gif")


def of_bytes(contents: bytes, name: str = "mask.png") -> Callable[[Path], str]:
    def write(place: Path) -> str:
        (place / name).write_bytes(contents)
        return str(place / name)

    return write


def cut_off(place: Path) -> str:
    path = Path(saved(np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8) * 255, place))
    path.write_bytes(path.read_bytes()[:200])
    return str(path)


WRONG: dict[str, tuple[Callable[[Path], str], str]] = {
    "not there": (lambda place: str(place / "none.png"), r"can't be read \(No such file or directory\)"),
    "a folder": (lambda place: str(place), r"can't be read \(Is a directory\)"),
    "below a file": (lambda place: f"{saved(half(), place)}/x", r"can't be read \(Not a directory\)"),
    "no bytes": (of_bytes(b""), r"can't be read \(it is no picture in a known format, or damaged\)"),
    "a text": (of_bytes(b"hello"), r"can't be read .*give a black-and-white picture, such as a PNG"),
    "an SVG": (of_bytes(b"<svg></svg>", "mask.svg"), r"can't be read .*no picture in a known format"),
    "PostScript": (of_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), r"can't be read"),
    "cut off": (cut_off, r"can't be read"),
    "2.5 gigapixels": (of_bytes(bomb(50_000)), r"can't be read \(DecompressionBombError"),
    "animated": (animated, r"has 2 frames: give a single picture"),
    "in colour": (coloured, r"is in colour \(50% of its pixels\): paint what stays black"),
    "transparent": (see_through, r"has transparent parts: fill them"),
    "a photograph": (photo, r"is no mask: \d\d% of its pixels are neither black \(stays\) nor white"),
    "grey": (lambda place: saved(np.full((9, 9), 128, np.uint8), place), r"is no mask: 100% of its pixels"),
    "black": (lambda place: saved(half(white=0), place), r"is black in all of the .*paint the parts to redraw white"),
    "white": (lambda place: saved(half() | 255, place), r"is white in all of the .*or use stage2_prior\.sample"),
    "zeros and ones": (lambda place: saved(half(white=1), place), r"holds only the values 0 and 1 of 255: save it"),
    "another size": (
        lambda place: saved(half(16, 32), place),
        r"has 32×16 pixels: give it a square size, on the prepared pictures of 16×16, or .*\(24×20\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_mask_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, told = WRONG[name]
    mask = make(tmp_path)
    with pytest.raises(UserError, match=told) as caught:
        read_mask(mask, TRANSFORM, {(24, 20)})
    assert str(caught.value).startswith(f"mask={mask}") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_is_white_is_cut_off_with_the_pictures_edges(tmp_path: Path) -> None:
    pixels_HW = np.zeros((16, 32), np.uint8)
    pixels_HW[:, :8] = 255
    with pytest.raises(UserError, match="is black in all of the prepared picture"):
        read_mask(saved(pixels_HW, tmp_path), TRANSFORM, {(32, 16)})


def test_a_mask_of_given_files_through_the_command(coded: Coded, tmp_path: Path) -> None:
    """What the mask keeps of a wide picture stays, in the middle square that the tokenizer sees."""
    given = saved(np.random.default_rng(0).integers(0, 255, (16, 32), dtype=np.uint8), tmp_path, "given.png")
    config = prepared(coded, tmp_path, "masked", given=given, mask=saved(half(16, 32), tmp_path), classes=["star"])
    assert inpaint(config) == 0
    codes = drawn_codes(tmp_path / "out").unflatten(1, (4, 4))
    assert (codes[:, :, 2:] == codes[:1, :, 2:]).all(), "the right half is the given picture's"
    with pytest.raises(UserError, match=r"keeps codes after the hole.*paint only the lower rows white"):
        inpaint(prepared(coded, tmp_path / "rows", "autoregressive", given=given, mask=config.mask, classes=["star"]))


def test_pictures_that_cannot_be_used_are_named(coded: Coded, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    saved(half(), tmp_path / "given", "a.png")
    for contents in (b"", bomb(50_000), b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        (tmp_path / "given" / "b.png").write_bytes(contents)
        with pytest.raises(UserError, match=r"given=.*b\.png can't be used .*leave it out"):
            inpaint(prepared(coded, tmp_path, "masked", given=str(tmp_path / "given"), classes=["star"]))


def test_a_mask_and_what_it_replaces_are_not_both_given() -> None:
    for changes in ({"keep": "left"}, {"share": 0.3}):
        with pytest.raises(ValueError, match=r"mask and \w+ are both set"):
            InpaintConfig(prior="", tokenizer="", out="", given="x", mask="m.png", **changes)  # type: ignore[arg-type]
