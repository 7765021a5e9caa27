"""Codes of several levels and scales, from tokenizer to pictures: encode, train, resume, release, sample, decode."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures.config import TransformConfig
from data.pictures.transforms import to_float, to_uint8
from data.reading.stream import every_code, every_sample
from data.shards.loading import load_index
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.sampling import SampleConfig
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.encode import encode
from stage2_prior.measuring.evaluation import evaluate
from stage2_prior.priors.build import load_prior
from stage2_prior.release import ReleaseConfig, release
from stage2_prior.sample import sample
from stage2_prior.train import print_cost, train
from tests.stage2_prior.commands.test_train import settings, train_killed_at
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.sampling.test_pictures import pictures
from tests.stage2_prior.tiny import CODES, write_tokenizer

FORMS: dict[str, dict[str, Any]] = {
    "residual": {"kind": "residual", "codebooks": 3},
    "product": {"kind": "product", "codebooks": 2},
    "multiscale": {"kind": "multiscale", "scales": [1, 2, 4]},
}
SHAPES = {"residual": (3, 4, 4), "product": (2, 4, 4), "multiscale": (21,)}
KINDS = {"residual": "depth", "product": "depth", "multiscale": "multiscale"}


@dataclass(frozen=True)
class Formed:
    """A kind of quantizer, and codes of the pictures by it."""

    name: str
    coded: Coded

    def training(self, folder: Path, **changes: Any) -> PriorTrainConfig:
        model = PriorModelConfig(
            kind=KINDS[self.name],  # type: ignore[arg-type]
            layers=1,
            depth_layers=1,
            width=16,
            heads=2,
            class_dropout=0.3,
            code_noise=0.1,
        )
        return settings(self.coded, folder, model=model, **changes)


@pytest.fixture(scope="module", params=FORMS)
def formed(request: pytest.FixtureRequest, coded: Coded, tmp_path_factory: pytest.TempPathFactory) -> Formed:
    place: Path = tmp_path_factory.mktemp(request.param)
    tokenizer = write_tokenizer(place / "tokenizer", **FORMS[request.param])
    for name, index in (("codes", coded.pictures), ("held_out", coded.held_out)):
        assert encode(EncodeConfig(tokenizer=tokenizer, data=index, out=str(place / name), verify=2)) == 0
    own = replace(
        coded,
        tokenizer=tokenizer,
        codes=str(place / "codes" / "index.json"),
        held_out_codes=str(place / "held_out" / "index.json"),
    )
    return Formed(request.param, own)


def test_codes_keep_their_form_and_the_index_tells_it(formed: Formed):
    tokenizer = Tokenizer.from_pretrained(formed.coded.tokenizer)
    index = load_index(formed.coded.held_out_codes)
    source = CodeSource.of_index(index, "")
    assert source.shape == SHAPES[formed.name] == tuple(index.meta["shape"])
    assert source == CodeSource.from_dict(json.loads(json.dumps(source.to_dict())))
    assert len(index.meta["histogram"]) == CODES * source.codebooks
    assert sum(index.meta["histogram"]) == 18 * source.positions
    batch = next(every_sample(formed.coded.held_out, TransformConfig(size=16, channels=1), batch_size=9))
    found = next(every_code(formed.coded.held_out_codes, batch_size=9))
    assert found.keys == batch.keys and torch.equal(found.idx_Bhw, tokenizer.encode(to_float(batch.pixels_BCHW)))


def test_from_codes_to_pictures(formed: Formed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trained, killed and resumed to the same weights, evaluated, released, sampled and decoded."""
    coded, whole, cut = formed.coded, formed.training(tmp_path / "whole"), formed.training(tmp_path / "cut")
    assert train(whole) == 0
    train_killed_at(cut, 7, monkeypatch)
    assert train(cut) == 0
    one, other = (load_prior(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    config = ReleaseConfig(
        prior=str(tmp_path / "whole"), out=str(tmp_path / "prior"), tokenizer=coded.tokenizer, licence="mit"
    )
    out = release(config)
    assert "Sampling needs vqloom" in (out / "README.md").read_text()
    figures = evaluate(EvaluateConfig(prior=str(out), codes=coded.held_out_codes, out=str(tmp_path / "figures.json")))
    evaluated = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    last = [line["eval/bits_per_code"] for line in evaluated if line["kind"] == "eval"][-1]
    assert figures["bits_per_code"] == pytest.approx(last, rel=1e-5)
    drawing = {"count": 3, "batch_size": 4, "guidance": 2.0, "top_k": 20, "top_p": 0.95}
    config = SampleConfig(prior=str(out), tokenizer=coded.tokenizer, out=str(tmp_path / "samples"), **drawing)  # type: ignore[arg-type]
    assert sample(config) == 0
    codes = np.concatenate([np.load(path) for path in sorted((tmp_path / "samples" / "codes").iterdir())])
    assert codes.shape == (9, *SHAPES[formed.name]) and codes.dtype == np.uint16
    x_BCHW = Tokenizer.from_pretrained(coded.tokenizer).decode(torch.from_numpy(codes.astype(int)))
    first = np.asarray(Image.open(tmp_path / "samples" / "circle" / "00000.png")).astype(int)
    assert np.abs(first - to_uint8(x_BCHW)[0, 0].numpy().astype(int)).max() <= 1
    assert sample(replace(config, out=str(tmp_path / "alone"), batch_size=9)) == 0
    both = [pictures(tmp_path / name) for name in ("samples", "alone")]
    assert both[0].keys() == both[1].keys()
    apart = [name for name in both[0] if both[0][name] != both[1][name]]
    assert len(apart) <= 1 + len(both[0]) // 3, "batches of other sizes draw the same codes, up to rounding"


def test_a_kind_for_other_codes_is_refused_in_one_line(formed: Formed, coded: Coded, tmp_path: Path):
    other = "autoregressive" if formed.name == "multiscale" else "multiscale"
    wrong = settings(formed.coded, tmp_path / "run", model=PriorModelConfig(kind=other))
    fitting = "multiscale" if formed.name == "multiscale" else "autoregressive or masked or depth or delay"
    with pytest.raises(UserError, match=f"set model.kind to {fitting}$") as caught:
        train(wrong)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    own = formed.training(tmp_path / "run").model
    with pytest.raises(UserError, match=r"one code a place.*autoregressive or masked"):
        train(settings(coded, tmp_path / "run", model=own))


def test_a_dry_run_tells_what_they_cost(formed: Formed, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = formed.training(tmp_path)
    assert print_cost(config) == 0
    assert f"{CODES} codes on 4×4, " in capsys.readouterr().out
    assumed = replace(config, data=replace(config.data, index=str(tmp_path / "none.json")))
    assert print_cost(assumed) == 0
    assert {"depth": "4 a place", "multiscale": "13, 16"}[config.model.kind] in capsys.readouterr().out
