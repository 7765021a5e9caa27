"""The sample set `prose`: chapters of English, from Debian's package of the World English Bible (public domain)."""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.samples.debian import debian_contents
from data.samples.sample_set import SampleSet

PACKAGE, VERSION = "sword-text-web", "426.0-1"
SHA256 = "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1"
_MODULE = "usr/share/sword/modules/texts/ztext/engWEB2015eb/nt"
_LICENCE = f"""The texts are chapters of the New Testament of the World English Bible, as Debian has it in its package
{PACKAGE} {VERSION} (from https://ebible.org/web/). It is in the public domain; its name is a trademark of eBible.org.
Left out were notes, titles and numbers of verses; the words are unchanged. The package's copyright file says:

"""


def prose(folder: Path) -> SampleSet:
    """Each chapter is a sample; the class is its book. Held out is each tenth chapter."""
    files = debian_contents(PACKAGE, VERSION, SHA256, folder)
    names, books, texts = [], [], []
    for book, number, text in chapters(files[f"{_MODULE}.bzs"], files[f"{_MODULE}.bzz"]):
        names.append(f"{book}_{number:02d}")
        books.append(book)
        texts.append(text)
    classes = list(dict.fromkeys(books))
    copyright_file = files[f"usr/share/doc/{PACKAGE}/copyright"].decode()
    return SampleSet(
        name="prose",
        classes=classes,
        source=f"Debian {PACKAGE} {VERSION}",
        licence_text=_LICENCE + copyright_file.partition("Files: debian/*")[0],
        keys=names,
        labels=np.array([classes.index(book) for book in books]),
        extension="txt",
        encode=lambda i: texts[i].encode(),
        train_shards=2,
        kind="texts",
        licence="public domain, see LICENSE",
        held_out=np.arange(len(texts)) % 10 == 9,
    )


def chapters(blocks: bytes, packed: bytes) -> Iterator[tuple[str, int, str]]:
    """Book, number and text of each chapter, from the index and the contents of a SWORD module compressed by book."""
    for offset, size, _ in struct.iter_unpack("<III", blocks):
        marked = zlib.decompress(packed[offset : offset + size]).decode()
        parts = re.split(r'<chapter [^>]*osisID="(\w+)\.(\d+)"[^>]*sID=[^>]*>', marked)
        for book, number, inside in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            # Behind the last chapter's end is a glossary.
            if text := plain(re.split(r"<chapter [^>]*eID=", inside)[0]):
                yield book, int(number), text


def plain(marked: str) -> str:
    """The words of a text in OSIS, a paragraph a line."""
    text = re.sub(r"<(note|title)\b.*?</\1>", " ", marked, flags=re.DOTALL)
    text = re.sub(r"<(div [^>]*sID=[^>]*type=.x-p|l |lg |item)[^>]*>", "\n", text)
    text = re.sub(r"<[^>]+>", "", text)
    lines = (re.sub(r"\s+([,.;:?!’”])", r"\1", " ".join(line.split())) for line in text.split("\n"))
    return "".join(f"{line}\n" for line in lines if line)
