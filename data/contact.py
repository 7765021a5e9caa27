"""A contact sheet: random samples of a set with their labels, on one picture."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.arrange import shuffled
from data.cli import UserError
from data.decode import DamagedSampleError, decode_picture, label, picture_bytes, read_sample
from data.index import ShardIndex
from data.plain import open_plain
from data.transforms import TransformConfig

_MARGIN, _LINE = 6, 13
_MAX_PIXELS = 100_000_000


def contact_sheet(index: ShardIndex, count: int, side: int, seed: int) -> Image.Image:
    """`count` samples drawn by `seed`, each at most side×side pixels, with class name and key below.

    A sample that can't be decoded shows as a red square with the reason. UserError for codes and remote shards.
    """
    if index.kind == "codes" or index.offsets is None:
        raise UserError("a contact sheet shows pictures in local shards: this index has codes, or remote shards")
    first = np.concatenate([[0], np.cumsum(index.sizes)])
    chosen = np.sort(shuffled(len(index), seed)[:count])
    columns = max(1, round((len(chosen) * 1.4) ** 0.5))
    rows = -(-len(chosen) // columns)
    cell_w, cell_h = side + _MARGIN, side + _MARGIN + 2 * _LINE
    sheet = Image.new("RGB", (columns * cell_w + _MARGIN, rows * cell_h + _MARGIN), (40, 40, 40))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, number in enumerate(chosen.tolist()):
        shard = int(np.searchsorted(first, number, side="right")) - 1
        picture, name, key = _sample(index, shard, number - int(first[shard]), side)
        x, y = _MARGIN + i % columns * cell_w, _MARGIN + i // columns * cell_h
        sheet.paste(picture, (x, y))
        for line, text in enumerate((name, key)):
            pen.text((x, y + side + line * _LINE), _cut(text, pen, font, side), (230, 230, 120 + 110 * line), font)
    return sheet


def _sample(index: ShardIndex, shard: int, position: int, side: int) -> tuple[Image.Image, str, str]:
    """Picture, class name and key of one sample."""
    assert index.offsets is not None
    start, end = index.offsets.extent(shard, position)
    descriptor = open_plain(index.location(shard))
    try:
        raw = os.pread(descriptor, end - start, start)
    finally:
        os.close(descriptor)
    key = f"{index.shards[shard].url}:{position}"
    try:
        sample = read_sample(raw)
        key = sample.key
        number = label(sample, len(index.classes))
        # resize=area lets large JPEGs be decoded at a smaller scale.
        plain = TransformConfig(size=side, fit="pad", resize="area")
        picture = Image.fromarray(decode_picture(picture_bytes(sample), plain, max_pixels=_MAX_PIXELS))
    except DamagedSampleError as error:
        return Image.new("RGB", (side, side), (170, 30, 30)), str(error), key
    picture.thumbnail((side, side))
    return picture, index.classes[number] if number >= 0 and index.classes else str(number), key


def _cut(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, shortened at its end to so many pixels."""
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
