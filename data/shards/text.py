"""Text of unknown encoding, as caption files have it."""

import codecs

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode_text(raw: bytes) -> tuple[str, str]:
    """The text, and what was done to read it; nothing for plain UTF-8, which has a byte-order mark or none.

    A byte-order mark decides. Without one it is UTF-8; else Windows-1252, which has Latin-1's letters. Where every
    second byte is 0 it is UTF-16. NUL characters become spaces. Line breaks stay as they are.
    """
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            text = raw[len(mark) :].decode(encoding, "replace")
            return _without_nul(text, "" if encoding == "utf-8" else f"read as {encoding[:-3].upper()}")
    if b"\0" in raw and (encoding := _wide(raw)):
        return _without_nul(raw.decode(encoding, "replace"), "read as UTF-16")
    try:
        return _without_nul(raw.decode("utf-8"), "")
    except UnicodeDecodeError:
        pass
    try:
        return _without_nul(raw.decode("cp1252"), "read as Windows-1252 (Latin-1), because it isn't UTF-8")
    except UnicodeDecodeError:
        return _without_nul(raw.decode("latin-1"), "read as Latin-1, because it isn't UTF-8")


def text_lines(raw: bytes) -> list[str]:
    """The lines of a text file. Only line feeds end one: others, such as U+2028, may stand in a text."""
    text = decode_text(raw)[0].removesuffix("\n").removesuffix("\r")
    return [line.removesuffix("\r") for line in text.split("\n")] if text else []


def _wide(raw: bytes) -> str:
    """The byte order of UTF-16 without a mark, where nearly all high bytes are 0; else nothing."""
    if len(raw) % 2 == 0:
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if raw[first::2].count(0) > 0.9 * len(raw) / 2 and raw[1 - first :: 2].count(0) == 0:
                return encoding
    return ""


def _without_nul(text: str, how: str) -> tuple[str, str]:
    if "\0" not in text:
        return text, how
    return text.replace("\0", " "), f"{how + ', ' if how else ''}NUL characters replaced by spaces"
