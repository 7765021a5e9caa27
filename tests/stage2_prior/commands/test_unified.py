"""What is done with a unified prior: pictures of texts, texts of pictures, texts, figures, and a conversation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.config.sampling import SampleConfig
from stage2_prior.config.texts import DescribeConfig, WriteConfig
from stage2_prior.encode import encode
from stage2_prior.measuring.evaluation import evaluate
from stage2_prior.sample import sample
from stage2_prior.sampling.texts import describe, open_unified, write
from stage2_prior.web.conversation import Conversation
from stage2_prior.web.conversation import page as conversation_page
from tests.stage2_prior.tiny import TEXTS, write_pictures, write_tokenizer
from tests.stage2_prior.unified.exported import write_unified


@dataclass(frozen=True)
class World:
    """Captioned pictures, their tokenizer, codes, and a prior over both."""

    pictures: str
    tokenizer: str
    codes: str
    prior: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("unified")
    pictures = write_pictures(place / "pictures", shards=1, each=8, captions=True)
    tokenizer = write_tokenizer(place / "tokenizer")
    assert encode(EncodeConfig(tokenizer=tokenizer, data=pictures, out=str(place / "codes"), batch_size=8)) == 0
    codes = str(place / "codes" / "index.json")
    return World(pictures, tokenizer, codes, write_unified(place / "prior", codes))


def drawn(world: World, out: Path, **settings: Any) -> list[np.ndarray]:
    config = SampleConfig(prior=world.prior, tokenizer=world.tokenizer, out=str(out), count=2, batch_size=4, **settings)
    assert sample(config) == 0
    return [np.asarray(Image.open(file)) for file in sorted(out.glob("*/0*.png"))]


def test_pictures_of_a_text(world: World, tmp_path: Path) -> None:
    first, again = (drawn(world, tmp_path / name, prompt="bright above", guidance=2.0) for name in "ab")
    assert [picture.shape for picture in first] == [(16, 16)] * 2 and np.array_equal(first, again)
    assert not np.array_equal(first, drawn(world, tmp_path / "other", prompt="a bright box", guidance=2.0))
    described = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert described["complete"] and described["classes"][0]["name"] == "bright above"
    other = write_tokenizer(tmp_path / "tokenizer", seed=1)
    with pytest.raises(UserError, match="give a tokenizer that it was trained with"):
        sample(SampleConfig(prior=world.prior, tokenizer=other, out=str(tmp_path / "c"), prompt="x"))


def test_descriptions_of_files_and_of_an_index(world: World, tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    Image.fromarray(np.full((16, 16), 200, np.uint8)).save(file)
    settings: dict[str, Any] = {"prior": world.prior, "tokenizer": world.tokenizer, "tokens": 6, "batch_size": 3}
    out = tmp_path / "out"
    found = list(describe(DescribeConfig(files=[str(file), world.pictures], limit=6, out=str(out), **settings)))
    assert found[0][0] == str(file) and len(found) == 6
    content = json.loads((out / "captions.json").read_text())
    assert [(one["name"], one["caption"]) for one in content["samples"]] == found
    assert "text" not in content["samples"][0]
    assert {one.get("text", "") for one in content["samples"][1:]} <= {*TEXTS, ""}
    assert np.array_equal(np.asarray(Image.open(out / "00000.png")), np.full((16, 16), 200))
    alone = list(describe(DescribeConfig(files=[str(file)], **settings)))
    assert alone == found[:1]
    with pytest.raises(UserError, match="is no picture and holds none"):
        list(describe(DescribeConfig(files=[str(tmp_path / "none.wav")], **settings)))


def test_texts_go_on_from_a_beginning(world: World) -> None:
    settings: dict[str, Any] = {"prior": world.prior, "prompt": "bright", "tokens": 8}
    found = list(write(WriteConfig(count=3, **settings)))
    assert [prompt for prompt, _ in found] == ["bright"] * 3 and len({text for _, text in found}) > 1
    assert found == list(write(WriteConfig(count=3, batch_size=1, **settings)))
    with pytest.raises(UserError, match="give a shorter one"):
        list(write(WriteConfig(prior=world.prior, prompt="x" * 200)))


def test_all_figures_in_one_evaluation(world: World, tmp_path: Path) -> None:
    config = EvaluateConfig(prior=world.prior, codes=world.codes, out=str(tmp_path / "e.json"), retrieval=2)
    found = evaluate(config)
    assert found["bits_per_code"] > 0 and found["bits_per_code_without_text"] > 0
    assert found["captions"]["count"] == 6  # each fifth has none
    assert set(found["text"]) == {"bits_per_byte", "bits_per_byte_without_media", "bytes"}
    assert set(found["retrieval"]) == {"text_to_picture", "picture_to_text", "candidates"}


def test_a_conversation_takes_and_gives_pictures(world: World) -> None:
    talk = Conversation(open_unified(world.prior), Tokenizer.from_pretrained(world.tokenizer))
    (said, answer), ids = talk.answer("bright above", [], [], guidance=2.0)
    assert said == {"role": "user", "content": "bright above"} and answer["role"] == "assistant"
    picture = answer["content"]["path"]
    assert Image.open(picture).size == (384, 384)
    block = talk.over.block
    assert ids[0] == talk.prior.vocabulary.begin and ids[-1] == block.closing and len(ids) == 1 + 12 + 18
    (shown, text), more = talk.answer("", [picture], ids, seed=1)
    assert shown["content"] == {"path": picture} and isinstance(text["content"], str)
    assert more[: len(ids)] == ids and more[len(ids)] == block.opening
    with pytest.raises(UserError, match="begin a new one"):
        talk.answer("x" * 90, [], [])
    blocks = conversation_page(talk, "halves")
    assert any(getattr(one, "label", "") == "conversation" for one in blocks.blocks.values())
