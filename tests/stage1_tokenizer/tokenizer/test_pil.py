"""PIL pictures and lists as input of the public class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures.transforms import apply, to_float, to_uint8
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer import tiny


def grey(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def test_the_tokenizer_takes_pil_pictures_and_lists():
    tokenizer = tiny.tokenizer()
    colour = Image.fromarray(np.stack([grey(30, 24, seed) for seed in range(3)], 2))
    pixels_HW1 = np.array(colour.convert("L"))[:, :, None]
    prepared_CHW = np.empty((1, 16, 16), np.uint8)
    apply(pixels_HW1, tiny.TRANSFORM, None, prepared_CHW.transpose(1, 2, 0))
    x_BCHW = to_float(torch.from_numpy(prepared_CHW)[None])
    idx_Bhw = tokenizer.encode(x_BCHW)
    assert torch.equal(tokenizer.encode(colour), idx_Bhw)
    assert torch.equal(tokenizer.encode([colour, colour]), torch.cat([idx_Bhw, idx_Bhw]))
    assert torch.equal(tokenizer.encode([x_BCHW[0], x_BCHW[0]]), torch.cat([idx_Bhw, idx_Bhw]))
    assert torch.equal(tokenizer.decode([idx_Bhw[0]]), tokenizer.decode(idx_Bhw))
    (picture,) = tokenizer.to_pil(tokenizer.decode(idx_Bhw))
    assert picture.mode == "L" and np.array_equal(np.asarray(picture), to_uint8(tokenizer.decode(idx_Bhw))[0, 0])


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "pictures are nothing"),
        ("picture.png", "pictures are str"),
        ([Image.new("L", (8, 8)), torch.zeros(1, 16, 16)], "pictures are Image, Tensor"),
        ([torch.zeros(1, 16, 16), torch.zeros(1, 16, 18)], "don't fit into one batch"),
        (Image.new("F", (8, 8)), "floating-point"),
    ],
)
def test_other_pictures_are_refused(pictures: object, message: str):
    with pytest.raises(ValueError, match=message):
        tiny.tokenizer().encode(pictures)  # type: ignore[arg-type]


def test_pil_pictures_need_a_transform():
    with pytest.raises(ValueError, match="has no transform"):
        Tokenizer(tiny.tokenizer().config).eval().encode(Image.new("L", (16, 16)))
