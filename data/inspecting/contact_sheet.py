"""Contact sheet: one picture with random samples of a set and their labels."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.media import handler
from data.packing.splits import shuffled
from data.reading.readers import LocalReader, NumberedShards
from data.shards.index import ShardIndex
from data.shards.sample import DamagedSampleError, read_sample
from launch.command.cli import UserError

_MARGIN, _LINE = 6, 13


def contact_sheet(index: ShardIndex, count: int, side: int, seed: int) -> Image.Image:
    """`count` samples drawn by `seed`, each at most side×side pixels, with class name and key below.

    A sample that can't be decoded is a red square with the reason. UserError for remote shards without offsets, and for
    kinds that can't be shown.
    """
    if index.offsets is None:
        raise UserError(
            "a contact sheet needs the offsets of its shards, which this remote set lacks: copy the set here first"
        )
    handler(index.kind, "thumbnail")  # refuses a kind without, before any shard is read
    chosen = np.sort(shuffled(len(index), seed)[:count])
    columns = max(1, round((len(chosen) * 1.4) ** 0.5))
    rows = -(-len(chosen) // columns)
    cell_w, cell_h = side + _MARGIN, side + _MARGIN + 2 * _LINE
    sheet = Image.new("RGB", (columns * cell_w + _MARGIN, rows * cell_h + _MARGIN), (40, 40, 40))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    reader = LocalReader(NumberedShards([index]))
    for i, (shard, position) in enumerate(zip(*index.places(chosen), strict=True)):
        picture, name, key = _sample(reader, index, shard, position, side)
        x, y = _MARGIN + i % columns * cell_w, _MARGIN + i // columns * cell_h
        sheet.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        pen.text((x, y + side), _cut(name, pen, font, side), (230, 230, 120), font)
        pen.text((x, y + side + _LINE), _cut(key, pen, font, side, end=True), (200, 200, 200), font)
    return sheet


def _sample(reader: LocalReader, index: ShardIndex, shard: int, place: int, side: int) -> tuple[Image.Image, str, str]:
    key = f"{index.shards[shard].url}:{place}"
    try:
        sample = read_sample(reader.read(shard, place), index.layout)
        key = sample.key
        number = index.label_of(sample)
        picture = handler(index.kind, "thumbnail")(sample, side)
    except DamagedSampleError as error:
        return Image.new("RGB", (side, side), (170, 30, 30)), str(error), key
    return picture, index.class_name(number), key


def _cut(text: str, pen: ImageDraw.ImageDraw, font: Any, width: int, *, end: bool = False) -> str:
    """The text, shortened to a width in pixels; `end` keeps its end instead of its beginning."""
    shown = text
    while len(text) > 1 and pen.textlength(shown, font) > width:
        text = text[1:] if end else text[:-1]
        shown = "…" + text if end else text + "…"
    return shown
