from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.pictures.config import TransformConfig
from data.pictures.transforms import to_float
from data.reading.stream import every_code, every_sample
from data.shards.loading import load_index
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage2_prior.codes.crops import variants
from stage2_prior.codes.encoding import Encoding
from stage2_prior.codes.shares import shards_of, summary
from stage2_prior.codes.source import CodeSource, code_type
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.encode import encode
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.tiny import CLASSES, CODES, write_tokenizer


def files(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def test_every_picture_has_its_codes_once_with_its_label_and_key(coded: Coded):
    tokenizer = Tokenizer.from_pretrained(coded.tokenizer)
    expected = {}
    for batch in every_sample(coded.pictures, TransformConfig(size=16, channels=1), batch_size=10):
        idx_Bhw = tokenizer.encode(to_float(batch.pixels_BCHW))
        expected |= dict(zip(batch.keys, zip(idx_Bhw.tolist(), batch.label_B.tolist(), strict=True), strict=True))
    found, keys = {}, []
    for batch in every_code(coded.codes, batch_size=13):
        found |= dict(zip(batch.keys, zip(batch.idx_Bhw.tolist(), batch.label_B.tolist(), strict=True), strict=True))
        keys += batch.keys
    assert len(keys) == len(set(keys)) == 90
    assert found == expected


def test_the_index_names_tokenizer_transform_and_counts(coded: Coded):
    index = load_index(coded.codes)
    tokenizer = Tokenizer.from_pretrained(coded.tokenizer)
    source = CodeSource.of_index(index, coded.codes)
    assert source == CodeSource(tokenizer.fingerprint, CODES, (4, 4), TransformConfig(size=16, channels=1).to_dict())
    assert (index.kind, index.classes, index.sizes) == ("codes", list(CLASSES), [18] * 5)
    assert sum(index.meta["histogram"]) == 90 * 16
    assert index.meta["used"] == sum(count > 0 for count in index.meta["histogram"]) / CODES


def test_flips_are_samples_of_their_own(coded: Coded, tmp_path: Path):
    encode(EncodeConfig(tokenizer=coded.tokenizer, data=coded.held_out, out=str(tmp_path / "out"), flip=True))
    tokenizer = Tokenizer.from_pretrained(coded.tokenizer)
    found = {}
    for batch in every_code(str(tmp_path / "out" / "index.json"), batch_size=5):
        found |= dict(zip(batch.keys, batch.idx_Bhw, strict=True))
    assert len(found) == 36
    batch = next(every_sample(coded.held_out, TransformConfig(size=16, channels=1), batch_size=3))
    mirrored_Bhw = tokenizer.encode(to_float(batch.pixels_BCHW).flip(-1))
    for key, codes_hw in zip(batch.keys, mirrored_Bhw, strict=True):
        assert torch.equal(found[f"{key}-flip"], codes_hw)


def killed(config: EncodeConfig, after: int) -> None:
    """An encoding that is killed with no notice when it has encoded `after` batches."""
    real, done = Encoding.codes, 0

    def codes(self: Encoding, *args: object, **kwargs: object) -> np.ndarray:
        nonlocal done
        if done == after:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    Encoding.codes = codes  # type: ignore[method-assign,assignment]
    encode(config)


def test_killed_ten_times_it_ends_with_the_bytes_of_an_uninterrupted_encoding(coded: Coded, tmp_path: Path):
    config = EncodeConfig(tokenizer=coded.tokenizer, data=coded.pictures, out=str(tmp_path / "out"), batch_size=7)
    random = np.random.default_rng(0)
    for _ in range(10):
        process = multiprocessing.get_context("fork").Process(target=killed, args=(config, int(random.integers(1, 5))))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "out" / "index.json").exists()
    if process.exitcode != 0:
        encode(config)
    assert files(tmp_path / "out") == files(Path(coded.codes).parent)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


def test_another_tokenizers_codes_are_not_written_into_the_same_folder(coded: Coded, tmp_path: Path):
    other = write_tokenizer(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match="holds a finished set") as caught:
        encode(EncodeConfig(tokenizer=other, data=coded.pictures, out=str(Path(coded.codes).parent)))
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 9))
def test_ranks_share_the_shards_out(sizes: list[int], world_size: int):
    shares = [shards_of(rank, world_size, sizes) for rank in range(world_size)]
    assert sorted(shard for share in shares for shard in share) == list(range(len(sizes)))
    loads = [sum(sizes[shard] for shard in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes)


def test_codes_take_two_bytes_while_they_can():
    assert code_type(65536) is np.uint16
    assert code_type(65537) is np.uint32


def test_summary_of_a_histogram():
    assert summary(np.array([5, 5, 0, 0])) == {"used": 0.5, "perplexity": pytest.approx(2.0)}


def test_ten_crops_are_samples_of_their_own(coded: Coded, tmp_path: Path):
    config = EncodeConfig(
        tokenizer=coded.tokenizer, data=coded.held_out, out=str(tmp_path / "out"), crops=10, crop_range=1.5
    )
    assert variants(10, False) == variants(5, True)
    with pytest.raises(ValueError, match="crops=10 has mirror images already: leave flip out"):
        replace(config, flip=True)
    assert encode(config) == 0
    found = {}
    for batch in every_code(str(tmp_path / "out" / "index.json"), batch_size=5):
        found |= dict(zip(batch.keys, batch.idx_Bhw, strict=True))
    assert len(found) == 180
    index = load_index(tmp_path / "out" / "index.json")
    assert len(index.meta["variants"]) == 10 and index.meta["crop_range"] == 1.5
    CodeSource.of_index(index, "").must_equal(CodeSource.of_index(load_index(coded.codes), ""), "data", "")
    tokenizer = Tokenizer.from_pretrained(coded.tokenizer)
    batch = next(every_sample(coded.held_out, TransformConfig(size=24, channels=1), batch_size=3))
    x_BCHW = to_float(batch.pixels_BCHW)
    expected = {
        "upper-left": x_BCHW[..., :16, :16],
        "lower-right-flip": x_BCHW[..., 8:, 8:].flip(-1),
        "upper-right": x_BCHW[..., :16, 8:],
        "middle": x_BCHW[..., 4:20, 4:20],
    }
    for name, part_BCHW in expected.items():
        for key, codes_hw in zip(batch.keys, tokenizer.encode(part_BCHW), strict=True):
            assert torch.equal(found[f"{key}-{name}"], codes_hw)


def test_verify_shows_the_codes_decoded_and_finds_wrong_ones(
    coded: Coded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from stage2_prior.codes.check import stored, verify

    out = tmp_path / "out"
    config = EncodeConfig(tokenizer=coded.tokenizer, data=coded.pictures, out=str(out), verify=7, flip=True)
    assert encode(config) == 0
    assert "verified 20 samples: a fresh encoding repeats 100.00% of the codes" in capsys.readouterr().out
    assert Image.open(out / "verify.png").size == (160, 32), "5 shards, plain and flipped, above what they decode to"
    other = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "other", seed=5))
    assert other.transform is not None
    with pytest.raises(UserError, match=r"a fresh encoding repeats only \d+\.\d% of the codes") as caught:
        verify(Encoding(config, other, other.transform, load_index(coded.pictures)), 3)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="has no codes of nobody"):
        stored(out / "codes-000000.tar", ["nobody"])
