"""PNGs with large texts (prompts, workflows, XMP): PIL refuses the whole picture for them; here they are left out."""

import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def without_large_texts(data: bytes | memoryview) -> bytes | memoryview:
    """The picture without the chunks that PIL would refuse it for: text and colour profiles of more than 1 MB.

    All other pictures, and damaged ones, as they are.
    """
    if bytes(data[:8]) != _SIGNATURE:
        return data
    large, total = [], 0
    for start, end, kind in _chunks(data):
        if kind in _TEXTS:
            size = _text_size(bytes(data[start + 8 : end - 4]), kind)
            total += size or 0
            if size is None or total > PngImagePlugin.MAX_TEXT_MEMORY:
                large.append((start, end))
    if not large:
        return data
    kept, at = [], 0
    for start, end in large:
        kept.append(bytes(data[at:start]))
        at = end
    return b"".join([*kept, bytes(data[at:])])


def _chunks(data: bytes | memoryview) -> Iterator[tuple[int, int, bytes]]:
    """Where each chunk begins and ends, and its kind."""
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield at, min(end, len(data)), bytes(data[at + 4 : at + 8])
        at = end


def _text_size(contents: bytes, kind: bytes) -> int | None:
    """Bytes of a chunk's text, inflated where it is compressed; None for more than PIL inflates."""
    _, _, rest = contents.partition(b"\0")
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):
        return len(rest)
    packed = rest[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else rest[1:]
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(packed, PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return 0
    return None if stream.unconsumed_tail else len(text)
