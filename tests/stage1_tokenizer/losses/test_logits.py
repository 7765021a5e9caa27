"""loss.logits: the published formula on random weights, and where networks come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
import transformers

from launch.command.cli import UserError
from stage1_tokenizer.config.semantic import LogitsConfig
from stage1_tokenizer.config.training import LossConfig, PerceptualConfig
from stage1_tokenizer.losses.logits import LogitsTerm
from stage1_tokenizer.media.pictures import terms
from tests.stage1_tokenizer.losses.tiny_networks import DEVIATION, MEAN, save_classifier

X, Y = (torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(n)).double() * 2 - 1 for n in (0, 1))


def test_value_and_gradient_are_those_of_the_published_formula(tmp_path: Path) -> None:
    network = save_classifier(tmp_path)
    term = LogitsTerm(LogitsConfig(weight=0.5, network=network, size=32)).double()
    plain = transformers.AutoModelForImageClassification.from_pretrained(network).double().eval()
    mean, deviation = (torch.tensor(values).double().view(1, 3, 1, 1) for values in (MEAN, DEVIATION))

    def logits(x: torch.Tensor) -> torch.Tensor:
        larger = F.interpolate((x + 1) / 2, size=32, mode="bilinear", antialias=True, align_corners=False)
        return plain((larger - mean) / deviation).logits

    leaf = X.clone().requires_grad_()
    expected = (logits(leaf) - logits(Y)).square().mean()
    (gradient,) = torch.autograd.grad(0.5 * expected, leaf)
    for micro_batch in (None, 2):
        value, pull = term.at(X, Y, micro_batch)
        assert float(value) == pytest.approx(float(expected), rel=1e-6)
        assert torch.allclose(pull, gradient, rtol=1e-6, atol=1e-9)
    assert float(term(Y, Y)) == 0
    assert not any(weight.requires_grad for weight in term.parameters())


def test_a_network_of_torchvisions_with_the_weights_of_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = torchvision.models.mnasnet0_5(weights=None).eval()
    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    config = LogitsConfig(weight=1, network="mnasnet0_5", weights=str(tmp_path / "weights.pth"), size=0)
    x = X[:1].float()
    with torch.no_grad():
        expected = plain(
            torchvision.transforms.functional.normalize((x + 1) / 2, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        assert torch.allclose(LogitsTerm(config).logits(x), expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_classifier_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"loss\.logits\.network=resnet51 is neither"):
        LogitsTerm(LogitsConfig(weight=1, network="resnet51"))
    with pytest.raises(UserError, match=r"set loss\.logits\.weights to torchvision's file"):
        LogitsTerm(LogitsConfig(weight=1, weights=str(tmp_path / "weights.pth")))
    with pytest.raises(ValueError, match=r"brings its own: remove it"):
        LogitsConfig(network="ORG/NAME", weights="file")


def test_it_is_a_term_where_it_has_a_weight(tmp_path: Path) -> None:
    off = LossConfig(perceptual=PerceptualConfig(weight=0))
    on = LossConfig(
        perceptual=PerceptualConfig(weight=0), logits=LogitsConfig(weight=0.1, network=save_classifier(tmp_path))
    )
    assert [term.name for term in terms(off)] == ["rec"]
    assert [term.name for term in terms(on)] == ["rec", "logits"]
