from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from launch.command.cli import UserError, run
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.tokenizer.code_maps import heat_map, neighbours, swatches
from stage2_prior import demo
from stage2_prior.priors.build import load_prior
from stage2_prior.web.page import NONE, Demo, page
from tests.stage1_tokenizer import tiny
from tests.stage2_prior.conftest import Coded, Trained


def test_neighbours_are_those_of_a_plain_search():
    tokenizer = tiny.tokenizer()
    found = neighbours(tokenizer, 5, 4)
    code_KD = tokenizer.quantizer.embedding.weight.detach()  # type: ignore[union-attr]
    wanted = torch.cdist(code_KD[5:6], code_KD)[0].sort()
    assert [code for code, _ in found] == wanted.indices[:4].tolist() and found[0] == (5, 0.0)
    assert np.allclose([distance for _, distance in found], wanted.values[:4], atol=1e-6)
    assert [picture.size for picture in swatches(tokenizer, [0, 5])] == [(8, 8)] * 2
    with pytest.raises(ValueError, match="code=32 must be between 0 and 31"):
        neighbours(tokenizer, 32)
    with pytest.raises(ValueError, match="no vectors of their own"):
        neighbours(tiny.tokenizer("residual"), 0)


def test_the_heat_map_has_a_colour_for_each_code():
    pixels = np.asarray(heat_map(torch.tensor([[0, 1], [1, 31]]), 32, side=16))
    assert pixels.shape == (16, 16, 3)
    assert np.array_equal(pixels[0, 15], pixels[15, 0]) and not np.array_equal(pixels[0, 0], pixels[15, 15])


def test_what_the_buttons_do(coded: Coded, trained: Trained):
    page = Demo(Tokenizer.from_pretrained(coded.tokenizer), load_prior(trained.prior))
    shown, back, colours, codes, told = page.reconstruct(Image.new("RGB", (40, 30), "teal"))
    assert shown.size == back.size == colours.size == (384, 384)
    assert len(codes) == len(codes[0]) == 4 and "16 codes" in told and "dB" in told
    assert page.code_at(codes, 0, 383) == codes[3][0] and page.code_at(codes, 383, 0) == codes[0][3]
    assert len(page.neighbours(codes[0][0])) == 8
    name = page.prior.vocabulary.classes[0]  # type: ignore[union-attr]
    one, two = page.sample(name, 2, 2.0, 1.0, 0), page.sample(name, 2, 2.0, 1.0, 0)
    assert [np.asarray(a).tolist() for a in one] == [np.asarray(b).tolist() for b in two] and len(one) == 2
    assert len(page.sample(NONE, 1, 1.0, 1.0, 3)) == 1


def test_another_tokenizers_prior_is_refused(trained: Trained):
    with pytest.raises(UserError, match="but the codes are of"):
        Demo(tiny.tokenizer(), load_prior(trained.prior))


def test_without_gradio_it_says_what_to_do(
    coded: Coded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "argv", ["demo", "--tokenizer", coded.tokenizer])
    with pytest.raises(SystemExit):
        run(demo.main)
    assert capsys.readouterr().err.startswith("error: the demo needs gradio: pip install")


def test_the_page_is_built(coded: Coded, trained: Trained):
    blocks = page(Demo(Tokenizer.from_pretrained(coded.tokenizer), load_prior(trained.prior)), "halves")
    labels = {component.label for component in blocks.blocks.values() if hasattr(component, "label")}
    assert {"reconstruction", "codes: click one", "samples"} <= labels
