from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures.config import TransformConfig
from data.pictures.transforms import to_float, to_uint8
from launch.command.cli import UserError
from stage1_tokenizer.measuring.scores import psnr
from stage1_tokenizer.measuring.single_pictures import RESULTS, reconstruct_picture
from stage1_tokenizer.reconstruct import main
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer import tiny


@pytest.fixture
def folder(tmp_path: Path) -> str:
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def grey(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def test_pictures_of_any_size(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, (width, height) in {"a.png": (33, 21), "b.png": (64, 48)}.items():
        Image.fromarray(grey(width, height)).save(tmp_path / name)
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    main([*files, "--tokenizer", folder, "--out", str(tmp_path / "out"), "--lpips", "false", "--tile", "32"])
    printed = capsys.readouterr().out
    assert "33×21" in printed and "64×48" in printed and printed.endswith(f"{tmp_path / 'out'}\n")
    small, large = json.loads((tmp_path / "out" / RESULTS).read_text())["pictures"]
    assert small["codes"] == 17 * 11 and small["code_bytes"] == -(-17 * 11 * 5 // 8)  # 32 codes are 5 bits each
    assert small["file_bytes"] == Path(files[0]).stat().st_size and large["codes"] == 32 * 24
    page = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert page.shape == (21, 2 * 33 + 2, 3) and np.array_equal(page[:, :33, 0], grey(33, 21))
    shown = [torch.from_numpy(part[None].copy()) for part in (page[:, :33, :1], page[:, 35:, :1])]
    assert small["psnr"] == pytest.approx(float(psnr(*shown)))


def test_a_multiple_of_the_stride_gives_the_tokenizers_own_reconstruction():
    tokenizer = tiny.tokenizer()
    pixels_CHW = torch.from_numpy(grey(20, 12))[None]
    expected, codes = tokenizer.reconstruct(to_float(pixels_CHW[None]))
    got, its = reconstruct_picture(tokenizer, pixels_CHW)
    assert torch.equal(got, to_uint8(expected)) and codes is not None and its is not None and torch.equal(its, codes)


def test_prepared_as_in_training_and_measured_with_lpips(tmp_path: Path):
    torch.manual_seed(0)
    tokenizer = Tokenizer(tiny.tokenizer().config, TransformConfig(size=32, channels=1)).eval()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    Image.fromarray(grey(70, 50)).save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), "--tokenizer", str(tmp_path / "tokenizer"), "--trained_size", "true"]
    main([*words, "--out", str(tmp_path / "out")])
    (row,) = json.loads((tmp_path / "out" / RESULTS).read_text())["pictures"]
    assert (row["width"], row["height"], row["codes"]) == (32, 32, 256) and 0 < row["lpips"] < 2


def test_bad_input_is_one_line_and_nothing_is_written(folder: str, tmp_path: Path):
    (tmp_path / "page.png").write_text("<html>")
    out = ["--tokenizer", folder, "--out", str(tmp_path / "out"), "--lpips", "false"]
    for words, message in (
        ([str(tmp_path / "page.png"), *out], "can't be used as a picture"),
        ([str(tmp_path / "none.png"), *out], "can't be used as a picture"),
        (out, "files"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            main(words)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
