"""How texts are packed, and how one becomes a window of bytes. No torch here."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from launch.command.checks import at_least, check

BYTES = 256
"""Values of a byte."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How a text becomes a window of `length` bytes."""

    kind: Literal["texts"] = "texts"
    """Kind of the samples, which decides what other settings there are."""
    length: int = 256
    """Bytes of the window, a multiple of the tokenizer's stride. Of a longer text a part is taken; behind a shorter one
    is nothing, which bears no loss."""
    random_crop: bool = True
    """In training, take the window at a random place instead of at the beginning."""

    def __post_init__(self) -> None:
        if self.kind != "texts":
            raise ValueError(f"transform.kind={self.kind} has other settings than texts: set kind to texts")
        at_least(1, self, "length", prefix="transform.")

    @property
    def channels(self) -> int:
        """One for each value of a byte."""
        return BYTES

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of a window's axes, without channels."""
        return (self.length,)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class TextConvertConfig:
    """What is done to each text."""

    field: str = "text"
    """Column of Parquet and Arrow files, or value of a JSON line, that is the text."""
    longest: int | None = 4000
    """Bytes in UTF-8 of a sample: longer texts become several, cut where a paragraph, else a line, else a word ends;
    null: texts stay whole. Training shuffles and batches samples, so a book should be many."""

    def __post_init__(self) -> None:
        good = self.longest is None or self.longest >= 16
        check("text.longest", self.longest, good, "16 or more bytes, or to null")

    @property
    def keeps_bytes(self) -> bool:
        """A text is stored as it is read."""
        return True


def cuts(text: bytes, longest: int | None) -> list[int]:
    """Where the pieces of a text in UTF-8 begin, and its end: they join to it, none longer than `longest` bytes."""
    edges = [0]
    while longest is not None and len(text) - edges[-1] > longest:
        edges.append(_cut(text, edges[-1], edges[-1] + longest))
    return [*edges, len(text)]


def _cut(text: bytes, first: int, last: int) -> int:
    """The best place in (first, last]: after a paragraph, a line, or a word of the second half, else after a letter."""
    half = (first + last) // 2
    for end in (b"\n\n", b"\n", b" "):
        place = text.rfind(end, half, last)
        if place >= 0:
            return place + len(end)
    while text[last] & 0xC0 == 0x80:
        last -= 1
    return last
