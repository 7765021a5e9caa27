"""What must not depend on the number of ranks; all of it on one pair of processes, since starting them takes long."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.sampling import InpaintConfig
from stage2_prior.encode import encode
from stage2_prior.inpaint import inpaint
from stage2_prior.measuring.held_out import held_out_figures
from stage2_prior.priors.build import load_prior
from stage2_prior.sample import sample
from stage2_prior.train import train
from tests.distributed import run_distributed_test
from tests.stage2_prior.codes.test_encoding import files
from tests.stage2_prior.commands.test_train import same, settings, train_killed_at, weights
from tests.stage2_prior.conftest import Coded, Trained
from tests.stage2_prior.sampling.test_pictures import codes, pictures, sampling


def on_a_rank(coded: Coded, prior: str, place: Path) -> None:
    """Encode, sample, train, and train interrupted."""
    assert (
        encode(EncodeConfig(tokenizer=coded.tokenizer, data=coded.pictures, out=str(place / "codes"), batch_size=7))
        == 0
    )
    assert sample(replace(sampling(coded, prior), out=str(place / "samples"))) == 0
    assert inpaint(inpainting(coded, prior, place / "inpainted")) == 0
    assert train(settings(coded, place / "whole")) == 0
    cut = settings(coded, place / "cut")
    with pytest.MonkeyPatch.context() as monkeypatch:
        train_killed_at(cut, 7, monkeypatch)
    assert train(cut) == 0


def inpainting(coded: Coded, prior: str, out: Path) -> InpaintConfig:
    """The lower halves of four pictures, twice."""
    settings = {"given": coded.held_out, "out": str(out), "limit": 4, "count": 2, "batch_size": 3, "guidance": 2.0}
    return InpaintConfig(prior=prior, tokenizer=coded.tokenizer, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(coded: Coded, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks left their work."""
    folder = tmp_path_factory.mktemp("two_ranks")
    run_distributed_test(on_a_rank, 2, (coded, trained.prior, folder))
    return folder


@pytest.mark.slow
def test_two_ranks_encode_to_the_bytes_that_one_writes(coded: Coded, place: Path):
    assert files(place / "codes") == files(Path(coded.codes).parent)


@pytest.mark.slow
def test_two_ranks_sample_the_pictures_that_one_samples(trained: Trained, place: Path):
    assert pictures(place / "samples") == pictures(trained.samples)
    assert codes(place / "samples") == codes(trained.samples)


@pytest.mark.slow
def test_two_ranks_fill_holes_as_one_does(coded: Coded, trained: Trained, place: Path, tmp_path: Path):
    assert inpaint(inpainting(coded, trained.prior, tmp_path / "alone")) == 0
    assert pictures(place / "inpainted") == pictures(tmp_path / "alone")
    assert codes(place / "inpainted") == codes(tmp_path / "alone")


@pytest.mark.slow
def test_two_ranks_resume_bit_identical(place: Path):
    assert same(weights(place / "whole"), weights(place / "cut"))


@pytest.mark.slow
def test_two_ranks_evaluate_every_code_once(coded: Coded, place: Path):
    lines = [json.loads(line) for line in (place / "whole" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line["eval/bits_per_code"] for line in lines if line["kind"] == "eval"][-1]
    assert held_out_figures(load_prior(place / "whole"), coded.held_out_codes)["bits_per_code"] == pytest.approx(
        evaluated, rel=1e-6
    )
