"""Documents with codes in their places: made of lines of JSON, and read as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data.config import CodeDataConfig
from launch.command.cli import UserError
from stage2_prior.codes.unified import UnifiedVocabulary
from stage2_prior.config.unified import UnifiedConfig
from stage2_prior.documents import DocumentsConfig, documents
from stage2_prior.unified.interleaved import CodeSets
from stage2_prior.unified.opening import vocabulary_of
from stage2_prior.unified.segments import MediaSegment, TextSegment
from stage2_prior.unified.stream import UnifiedStream, every_unified
from tests.stage2_prior.unified.tiny import PICTURES, SOUNDS, letters, write_codes


def write_lines(path: Path, lines: list[object]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_documents_are_read_in_their_order_whole_and_with_loss_everywhere(tmp_path: Path) -> None:
    pictures = write_codes(tmp_path / "pictures", PICTURES, ["a"] * 6)
    sounds = write_codes(tmp_path / "sounds", SOUNDS, ["a"] * 9, seed=1)
    paths = (str(pictures.path), str(sounds.path))
    lines = [
        {"segments": ["héllo ", {"sample": "008"}, " text", {"sample": "007"}, "end"]},
        {"segments": [{"sample": "006"}, "x" * 40]},
    ]
    path = write_lines(tmp_path / "lines.jsonl", lines)
    documents(DocumentsConfig(documents=path, out=str(tmp_path / "out"), codes=[paths[1]]))
    index_path = str(tmp_path / "out" / "index.json")
    from data.shards.loading import load_index

    index = load_index(index_path)
    (tmp_path / "tokenizer.json").write_text(letters().to_str())
    sets = {"data.index": pictures, "data.mixture[documents]": index}
    known: UnifiedVocabulary = vocabulary_of(UnifiedConfig(text_tokenizer=str(tmp_path)), sets)
    assert [block.name for block in known.blocks] == ["picture", "sound"]
    (first, second) = [one for _, batch in every_unified(index, known) for one in batch]
    shown = [known.decode_text(one.ids) if isinstance(one, TextSegment) else one.block.name for one in first]
    assert shown == ["héllo ", "sound", " text", "sound", "end"]
    assert isinstance(second[0], MediaSegment)
    number, contents = CodeSets(paths[1:]).codes("006")
    assert number == 0
    assert contents[-10:] == second[0].codes.astype(np.uint16).tobytes()[-10:]
    data = CodeDataConfig(index=index_path, batch_size=2, threads=1)
    with UnifiedStream(data, UnifiedConfig(length=32), [index], known, seed=1, draw_seed=2, dropout=0.9) as stream:
        packed = next(stream.batches(0)).packed
    scored = packed.token_BT[packed.kind_BT >= 0].tolist()
    assert known.none not in packed.token_BT, "no text is dropped"
    assert sum(token == known.blocks[1].opening for token in scored) == 3
    assert len(scored) == len("héllo  textend".encode()) + 40 + 3 * 12 + 2, "every token is predicted once"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"segments": [{"sample": "000"}]}, r"line 1: the sample '000': 2 samples of the sets of codes have it"),
        ({"segments": [{"sample": "099"}]}, "no set of codes has it"),
        ({"segments": [{"picture": "001"}]}, "neither a text nor"),
        ({"segments": "text"}, "no list of texts"),
        ({"text": "a"}, 'no object with "segments"'),
    ],
)
def test_lines_that_are_no_documents_are_named(line: object, why: str, tmp_path: Path) -> None:
    paths = [str(write_codes(tmp_path / name, PICTURES, ["a"]).path) for name in ("one", "two")]
    with pytest.raises(UserError, match=why):
        path = write_lines(tmp_path / "lines.jsonl", [line])
        documents(DocumentsConfig(documents=path, out=str(tmp_path / "out"), codes=paths))
