"""The trained priors in docs/releases: each loads, is small, and draws pictures with a tokenizer that ships too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stage1_tokenizer import Tokenizer
from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.base import weights_hash
from stage2_prior.priors.build import load_prior
from stage2_prior.sampling.pictures import Picture, sample_codes
from tests.imports import ROOT
from tests.stage1_tokenizer.publishing.test_shipped import LARGEST, RELEASES

PRIORS = sorted((ROOT / "docs" / "releases").glob("*/prior.json"))


@pytest.mark.parametrize("release", [place.parent for place in PRIORS], ids=lambda place: place.name)
def test_a_shipped_prior_draws_pictures(release: Path) -> None:
    assert (release / "model.safetensors").stat().st_size <= LARGEST
    assert "license:" in (release / "README.md").read_text()
    prior = load_prior(release)
    assert json.loads((release / "metrics.json").read_text())["prior_weights"] == weights_hash(prior)
    tokenizers = [Tokenizer.from_pretrained(place.parent) for place in RELEASES]
    (tokenizer,) = [one for one in tokenizers if one.code_fingerprint == prior.source.tokenizer]
    wanted = [Picture(label, number) for label in range(len(prior.vocabulary.classes)) for number in range(2)]
    with torch.no_grad():
        idx_Bhw = sample_codes(prior, wanted, 0, Drawing(guidance=1.5))
        pixels = tokenizer.to_pil(tokenizer.decode(idx_Bhw))
    assert len({picture.tobytes() for picture in pixels}) == len(wanted), "no two are alike"
    assert len(idx_Bhw.unique()) > 100, "many codes are in use"
    assert idx_Bhw.shape[1:] == prior.source.grid
