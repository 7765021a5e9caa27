"""Captions in any encoding that editors write become the same text; what was done is said."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.shards.sample import Sample, caption
from data.shards.text import decode_text, text_lines

TEXT = "Ein schöner Tag – «très» bien"


@pytest.mark.parametrize(
    ("raw", "how"),
    [
        (TEXT.encode(), ""),
        (codecs.BOM_UTF8 + TEXT.encode(), ""),
        (TEXT.encode("utf-16"), "read as UTF-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "read as UTF-16"),
        (TEXT.encode("utf-32"), "read as UTF-32"),
        (TEXT.encode("cp1252"), "read as Windows-1252 (Latin-1), because it isn't UTF-8"),
    ],
)
def test_encodings(raw: bytes, how: str) -> None:
    assert decode_text(raw) == (TEXT, how)


def test_utf_16_without_a_mark_and_other_nul_characters() -> None:
    assert decode_text("a plain cat".encode("utf-16-le")) == ("a plain cat", "read as UTF-16")
    assert decode_text("a plain cat".encode("utf-16-be")) == ("a plain cat", "read as UTF-16")
    assert decode_text(b"a cat\0\0") == ("a cat  ", "NUL characters replaced by spaces")
    assert decode_text(b"\x81\x8d\xe9") == ("\x81\x8d\xe9", "read as Latin-1, because it isn't UTF-8")
    assert decode_text(b"") == ("", "")


@given(st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])))
def test_plain_utf_8_is_never_changed(text: str) -> None:
    assert decode_text(text.encode()) == (text, "")


def test_a_sample_reads_its_caption_in_any_encoding() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        sample = Sample("a", {"txt": memoryview("größe\r\nzwei\n".encode(encoding))})
        assert caption(sample) == "größe zwei", encoding


def test_only_line_feeds_end_a_line() -> None:
    assert text_lines("\ufeffa\u2028b\r\n\r\nc\x0bd\n".encode()) == ["a\u2028b", "", "c\x0bd"]
    assert text_lines("größe\r\nzwei".encode("cp1252")) == ["größe", "zwei"]
    assert text_lines(b"") == text_lines(b"\n") == []
