"""Tokenizers of texts: trained from captions and texts, with all bytes and special tokens, the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.command.cli import UserError
from stage2_prior.codes.specials import SPECIALS
from stage2_prior.config.unified import UnifiedConfig
from stage2_prior.text_tokenizer import TextTokenizerConfig, text_tokenizer
from stage2_prior.unified.opening import read_tokenizer, vocabulary_of
from tests.stage2_prior.unified.tiny import PICTURES, SOUNDS, write_codes, write_texts


def test_a_tokenizer_of_captions_and_texts_is_read_as_a_vocabulary(tmp_path: Path) -> None:
    codes = write_codes(tmp_path / "codes", PICTURES, ["a seven at the top"] * 5 + [""])
    texts = write_texts(tmp_path / "texts", ["a seven at the bottom\nand so on"] * 3)
    paths, out = [str(codes.path), str(texts.path)], tmp_path / "tokenizer.json"
    text_tokenizer(TextTokenizerConfig(data=paths, out=str(out), size=290))
    again = tmp_path / "again.json"
    text_tokenizer(TextTokenizerConfig(data=paths, out=str(again), size=290))
    assert out.read_bytes() == again.read_bytes()
    text = read_tokenizer(str(tmp_path))
    assert text.get_vocab_size() == 290
    assert [text.token_to_id(token) for token in SPECIALS] == list(range(11))
    sets = {"data.index": codes, "data.mixture[x]": texts}
    known = vocabulary_of(UnifiedConfig(text_tokenizer=str(out)), sets)
    assert (known.texts, known.size) == (290, 290 + 24)
    strange = "ﬁ \u2028 <none> \x00 日本\n"
    assert known.decode_text(known.encode_text(strange)) == strange
    assert len(known.encode_text("a seven at the top")) < 8
    with pytest.raises(UserError, match="is there"):
        text_tokenizer(TextTokenizerConfig(data=paths, out=str(out)))


def test_codes_of_one_tokenizer_on_two_grids_need_rows(tmp_path: Path) -> None:
    from dataclasses import replace

    text_tokenizer(
        TextTokenizerConfig(
            data=[str(write_texts(tmp_path / "texts", ["abc"]).path)], out=str(tmp_path / "tokenizer.json")
        )
    )
    wide = replace(PICTURES, grid=(2, 6))
    sets = {
        "data.index": write_codes(tmp_path / "codes", PICTURES, ["a"]),
        "data.mixture[wide]": write_codes(tmp_path / "wide", wide, ["a"]),
        "data.mixture[s]": write_codes(tmp_path / "sounds", SOUNDS, ["a"]),
    }
    config = UnifiedConfig(text_tokenizer=str(tmp_path))
    with pytest.raises(UserError, match=r"data.mixture\[wide\] has codes of one tokenizer on grids of 3×4 and 2×6"):
        vocabulary_of(config, sets)
    known = vocabulary_of(replace(config, rows=True), sets)
    assert [block.name for block in known.blocks] == ["picture", "sound"]
    assert known.blocks[0].span((2, 6)).length == 14
