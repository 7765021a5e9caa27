"""Priors over the bits of 2^17 codes, from tokenizer to pictures: encode, train, resume, evaluate, release, sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.shards.loading import load_index
from launch.command.cli import UserError
from stage2_prior.codes.shares import summary
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.sampling import InpaintConfig, SampleConfig
from stage2_prior.encode import encode
from stage2_prior.inpaint import inpaint
from stage2_prior.measuring.evaluation import evaluate
from stage2_prior.priors.build import load_prior
from stage2_prior.release import ReleaseConfig, release
from stage2_prior.sample import sample
from stage2_prior.train import print_cost, train
from tests.stage2_prior.commands.test_train import settings, train_killed_at
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.sampling.test_pictures import codes
from tests.stage2_prior.tiny import write_tokenizer

BITS = 17


def test_bits_from_codes_to_pictures(
    coded: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer", kind="lfq", codebook_size=1 << BITS)
    out = tmp_path / "codes"
    assert encode(EncodeConfig(tokenizer=tokenizer, data=coded.held_out, out=str(out))) == 0
    index = load_index(str(out / "index.json"))
    counts = np.array(index.meta["histogram"])
    assert index.meta["counted"] == "bits" and counts.shape == (2 * BITS,)
    assert (counts.reshape(-1, 2).sum(1) == len(index) * 16).all() and 1 <= index.meta["perplexity"] <= 1 << BITS
    own = replace(coded, tokenizer=tokenizer, codes=str(out / "index.json"), held_out_codes=str(out / "index.json"))
    model = PriorModelConfig(head="bits", head_layers=1, layers=1, width=16, heads=2, class_dropout=0.3, code_noise=0.1)
    whole, cut = (settings(own, tmp_path / name, model=model, steps=9) for name in ("whole", "cut"))
    assert print_cost(whole) == 0 and f"{1 << BITS} codes" in capsys.readouterr().out
    assert train(whole) == 0
    train_killed_at(cut, 7, monkeypatch)
    assert train(cut) == 0
    one, other = (load_prior(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    released = release(ReleaseConfig(prior=str(tmp_path / "whole"), out=str(tmp_path / "prior"), licence="mit"))
    card = (released / "README.md").read_text()
    assert "its head, in `bits/`, fills in the bits" in card and "0 to 33 are the values of a code's factors" in card
    figures = evaluate(EvaluateConfig(prior=str(released), codes=own.codes, out=str(tmp_path / "figures.json")))
    assert 8 < figures["bits_per_code"] < 1.2 * BITS
    drawing = {"count": 2, "batch_size": 3, "guidance": 2.0, "bit_steps": [2, 5, 10]}
    config = SampleConfig(prior=str(released), tokenizer=tokenizer, out=str(tmp_path / "samples"), **drawing)  # type: ignore[arg-type]
    assert sample(config) == 0
    drawn = codes(tmp_path / "samples")
    with pytest.raises(UserError, match="top_k=5 cuts off"):
        sample(replace(config, out=str(tmp_path / "cut-off"), top_k=5))
    holes = InpaintConfig(
        prior=str(released), tokenizer=tokenizer, out=str(tmp_path / "holes"), given=coded.held_out, limit=2, count=1
    )
    assert inpaint(holes) == 0 and drawn


def test_bits_need_codes_whose_bits_are_channels(coded: Coded, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.head=bits needs codes whose bits are channels.* these are of vq"):
        train(settings(coded, tmp_path / "run", model=PriorModelConfig(head="bits")))
    with pytest.raises(UserError, match="needs codes whose number is a power of 2, not 24"):
        train(settings(coded, tmp_path / "run", model=PriorModelConfig(head="factors")))


def test_the_perplexity_of_counted_bits_is_that_of_independent_ones() -> None:
    assert summary(np.array([4, 4, 8, 0, 4, 4]), bits=True) == pytest.approx({"used": 5 / 6, "perplexity": 4.0})
