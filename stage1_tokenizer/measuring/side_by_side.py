"""Originals next to their reconstructions, as one picture file.

Legend: B batch, C channels, H W pixels.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.pictures.transforms import to_float, to_uint8
from data.shards.index import ShardIndex
from launch.files.atomic import writing
from stage1_tokenizer.measuring.picture_sets import every_picture
from stage1_tokenizer.tokenizer.model import Tokenizer


def save_pictures(path: Path, tokenizer: Tokenizer, source: ShardIndex | str, count: int) -> None:
    """Write `count` pictures of a set, evenly spaced, each next to its reconstruction."""
    device = next(tokenizer.parameters()).device
    transform = tokenizer.transform
    assert transform is not None, "trained and released tokenizers have a transform"
    originals, reconstructions = [], []
    for batch in every_picture(source, transform, batch_size=min(count, 16), limit=count, prepare=True):
        originals.append(batch.pixels_BCHW)
        reconstructions.append(to_uint8(tokenizer.reconstruct(to_float(batch.pixels_BCHW.to(device)))[0]).cpu())
    page_HWC = side_by_side(torch.cat(originals), torch.cat(reconstructions))
    with writing(path) as file:
        Image.fromarray(page_HWC).save(file, format="PNG")


def side_by_side(x_BCHW: Tensor, y_BCHW: Tensor, columns: int = 4) -> np.ndarray:
    """One RGB picture of pairs, x on the left and y on the right, `columns` pairs in a row; uint8 in and out."""
    count, _, height, width = x_BCHW.shape
    columns = min(columns, count)
    gap, space = 2, 8
    rows = -(-count // columns)
    step_x, step_y = 2 * width + gap + space, height + space
    page_HWC = np.full((rows * step_y - space, columns * step_x - space, 3), 255, np.uint8)
    for number in range(count):
        top, left = number // columns * step_y, number % columns * step_x
        for at, picture_CHW in ((left, x_BCHW[number]), (left + width + gap, y_BCHW[number])):
            page_HWC[top : top + height, at : at + width] = picture_CHW.permute(1, 2, 0).numpy()
    return page_HWC
