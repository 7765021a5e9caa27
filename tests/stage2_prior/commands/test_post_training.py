"""Decoder post-training: codes and pictures in pairs, the step, and a tokenizer whose codes stay those of the prior."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.config import DataConfig
from data.pictures.config import TransformConfig
from data.reading.paired import Paired
from data.reading.stream import Stream, every_code, every_sample
from data.shards.loading import load_index
from data.shards.writer import ShardWriter
from launch.command.cli import UserError, parse
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.train import train
from stage1_tokenizer.training.fine_tuning import with_model
from stage2_prior.codes.encoding import npy
from stage2_prior.codes.source import CodeSource
from stage2_prior.sample import sample
from tests.stage2_prior.conftest import Coded, Trained
from tests.stage2_prior.sampling.test_pictures import sampling
from tests.stage2_prior.tiny import write_tokenizer

TRANSFORM = TransformConfig(size=16, channels=1)
OPTIONS = {
    "freeze": "[encoder, quantizer]",
    "data.batch_size": "6",
    "data.transform.size": "16",
    "data.transform.channels": "1",
    "loss.perceptual.weight": "0",
    "loss.adversarial.start": "0",
    "loss.adversarial.channels": "4",
    "loss.adversarial.layers": "1",
    "optimizer.warmup": "1",
    "run.trackers": "[]",
    "run.save_every": "1",
    "steps": "2",
}


def configured(coded: Coded, folder: Path, **changes: Any) -> TokenizerTrainConfig:
    own = {"data.index": coded.pictures, "init": coded.tokenizer, "run.folder": str(folder)}
    options = {**OPTIONS, **own, **{name.replace("__", "."): str(value) for name, value in changes.items()}}
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    return parse(TokenizerTrainConfig, with_model(words), prog="test")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return open_run(folder).tokenizer.weights()


@pytest.fixture(scope="module")
def tuned(coded: Coded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the true codes, interrupted in the middle."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    assert train(configured(coded, folder, data__codes=coded.codes, steps=1, optimizer__decay="constant")) == 0
    assert train(configured(coded, folder, data__codes=coded.codes, optimizer__decay="constant")) == 0
    return folder


def test_true_codes_give_the_step_of_a_frozen_encoder(coded: Coded, tuned: Path, tmp_path: Path):
    assert train(configured(coded, tmp_path / "plain", optimizer__decay="constant")) == 0
    plain, own = weights(tmp_path / "plain"), weights(tuned)
    assert all(torch.equal(own[name], weight) for name, weight in plain.items())
    before = Tokenizer.from_pretrained(coded.tokenizer).weights()
    changed = {name.split(".")[0] for name, weight in before.items() if not torch.equal(weight, own[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_its_codes_are_still_those_of_the_prior(coded: Coded, trained: Trained, tuned: Path, tmp_path: Path):
    first, opened = Tokenizer.from_pretrained(coded.tokenizer), open_run(tuned).tokenizer
    assert opened.fingerprint != first.fingerprint and opened.code_fingerprint == first.fingerprint
    opened.save_pretrained(tmp_path / "tokenizer")
    again = Tokenizer.from_pretrained(tmp_path / "tokenizer")
    assert again.code_fingerprint == first.fingerprint
    assert CodeSource.of_tokenizer(again, TRANSFORM) == CodeSource.of_index(load_index(coded.codes), coded.codes)
    config = sampling(coded, trained.prior)
    config = replace(config, tokenizer=str(tmp_path / "tokenizer"), out=str(tmp_path / "samples"), count=1)
    assert sample(config) == 0
    assert json.loads((tmp_path / "samples" / "samples.json").read_text())["decoder"] == again.fingerprint
    with pytest.raises(UserError, match="holds samples with another decoder"):
        sample(replace(config, tokenizer=coded.tokenizer))

    with torch.no_grad():  # another encoder: the claim isn't believed
        next(opened.encoder.parameters()).add_(1)
    opened.save_pretrained(tmp_path / "other")
    told = json.loads((tmp_path / "other" / "config.json").read_text())
    told["codes_of"] = json.loads((tmp_path / "tokenizer" / "config.json").read_text())["codes_of"]
    (tmp_path / "other" / "config.json").write_text(json.dumps(told))
    other = Tokenizer.from_pretrained(tmp_path / "other")
    assert other.code_fingerprint == other.fingerprint


def test_each_picture_comes_with_its_own_codes(coded: Coded, tmp_path: Path):
    """Also where some have none, and whatever is done to pictures at random without codes."""
    index, writer = load_index(coded.codes), ShardWriter(tmp_path)
    lost = {3, 9, 17}
    writer.begin({}, ["index.json"])
    batches = [next(iter(every_code(index.only(shard), batch_size=18))) for shard in range(len(index.shards))]
    records = []
    for shard, batch in enumerate(batches):
        kept = [row for row in range(18) if shard or row not in lost]
        samples = ((batch.keys[row], {"codes.npy": npy(batch.idx_Bhw[row].numpy())}) for row in kept)
        records.append(writer.write(f"codes-{shard:06d}.tar", samples))
    writer.finish({"index.json": writer.index(records, kind="codes", meta=index.meta)})

    pictures = {}
    for batch in every_sample(coded.pictures, TRANSFORM, batch_size=9):
        pictures |= dict(zip(batch.keys, batch.pixels_BCHW, strict=True))
    codes = {key: idx for batch in batches for key, idx in zip(batch.keys, batch.idx_Bhw, strict=True)}
    without = {batches[0].keys[row] for row in lost}
    config = DataConfig(
        index=coded.pictures,
        codes=str(tmp_path / "index.json"),
        batch_size=15,
        transform=replace(TRANSFORM, flip=True),
        max_damaged=1.0,
    )
    seen: set[str] = set()
    with Stream(config, seed=3) as stream:
        for step, batch in zip(range(6), stream.batches(), strict=False):
            assert isinstance(batch, Paired) and batch.samples.step == step
            for key, pixels, idx in zip(batch.samples.keys, batch.samples.pixels_BCHW, batch.idx_Bhw, strict=True):
                assert torch.equal(idx, codes[key]) and torch.equal(pixels, pictures[key])
                seen.add(key)
        assert stream.tally.damaged and seen == pictures.keys() - without


def test_what_does_not_belong_together_is_one_line(coded: Coded, tmp_path: Path):
    other = write_tokenizer(tmp_path / "other", seed=5)
    turned = load_index(coded.codes)
    shutil.copytree(Path(coded.codes).parent, tmp_path / "flipped")
    replace(turned, meta={**turned.meta, "variants": ["plain", "flip"]}).save(tmp_path / "flipped" / "index.json")
    for changes, message in (
        ({"freeze": "[encoder]"}, r"must stay the tokenizer's: set freeze=\[encoder, quantizer\]"),
        ({"init": "null", "model.in_channels": "1"}, "needs the tokenizer whose codes they are: set init"),
        ({"data.codes": coded.pictures}, "holds pictures, not codes"),
        ({"data.codes": coded.held_out_codes}, "has codes of other pictures than those of data.index"),
        ({"data.codes": str(tmp_path / "flipped" / "index.json")}, "has crops or mirror images"),
        ({"init": other}, "name the tokenizer that made them"),
        ({"data.transform.fit": "pad"}, r"codes of samples with data\.transform\.fit='crop', not 'pad'"),
        ({"data.mixture": f'{{"{coded.held_out}": 1.0}}'}, r"is not supported with data\.mixture"),
    ):
        with pytest.raises((UserError, ValueError), match=message) as told:
            train(configured(coded, tmp_path / "run", **{"data__codes": coded.codes, **changes}))
        assert "\n" not in str(told.value).strip() and not (tmp_path / "run").exists()
