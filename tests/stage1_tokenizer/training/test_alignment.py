"""Training with loss.semantic: the step against the published form, ranks, resuming, and what is saved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from launch.command.cli import parse
from launch.run.metrics import read
from stage1_tokenizer.config.semantic import SemanticConfig
from stage1_tokenizer.config.training import LossConfig, PerceptualConfig, TokenizerTrainConfig
from stage1_tokenizer.losses.semantic import Features, SemanticTerm, margin_form
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.tokenizer.projector import attach
from stage1_tokenizer.train import train
from stage1_tokenizer.training import loop
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.losses.tiny_networks import save
from tests.stage1_tokenizer.training.test_step import ADVERSARIAL, assert_same_gradients, parts
from tests.stage1_tokenizer.training.textbook import one_forward


class Patches(nn.Module):
    """Stands for a frozen network: 16×16 patches through one fixed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(3)).double())

    def forward(self, x_BCHW: Tensor) -> Features:
        patches_BME = F.conv2d(x_BCHW, self.get_buffer("kernel"), stride=2).flatten(2).mT
        return Features(patches_BME, patches_BME.mean(1))


def aligned(**settings: Any) -> tuple[Tokenizer, nn.Module, SemanticTerm, Tensor]:
    config = SemanticConfig(network="unused", hidden=8, **settings)
    generator, discriminator, _, x = parts(ADVERSARIAL)
    attach(generator, config, 6)
    return generator.double(), discriminator, SemanticTerm(config, Patches()), x  # type: ignore[arg-type]


@pytest.mark.parametrize("adaptive", [False, True])
def test_gradients_are_those_of_the_published_loss(adaptive: bool) -> None:
    generator, discriminator, term, x = aligned(weight=0.3, form="margin", margins=[0.4, 0.1], adaptive=adaptive)
    plain = copy.deepcopy(generator)
    loss = LossConfig(perceptual=PerceptualConfig(weight=0), adversarial=ADVERSARIAL)
    output = plain(x)
    rec, apart = F.l1_loss(output.x_BCHW, x), margin_form(output.aligned_BNE, term.teacher(x).patches_BME, (0.4, 0.1))

    def norm(value: Tensor, weight: Tensor) -> Tensor:
        return torch.autograd.grad(value, weight, retain_graph=True)[0].norm()

    against = -copy.deepcopy(discriminator)(output.x_BCHW).mean()
    last, first = plain.decoder.conv_out.weight, plain.encoder.conv_out.weight
    adversarial = (norm(rec, last) / (norm(against, last) + 1e-4)).detach() * ADVERSARIAL.weight
    weight = (norm(rec, first) / (norm(apart, first) + 1e-4)).detach() if adaptive else 1.0
    total = rec + adversarial * against + 0.3 * weight * apart + sum(output.losses.values())
    total.backward(inputs=list(plain.parameters()))

    result = one_forward(loss, semantic=term)(generator, [discriminator], x, 0)

    assert_same_gradients(generator, plain)
    assert float(result.metrics["loss/semantic"]) == pytest.approx(float(apart.detach()), rel=1e-9)
    if adaptive:
        assert float(result.metrics["semantic/weight"]) == pytest.approx(0.3 * float(weight), rel=1e-6)


def contrasted(rank: int, ranks: int) -> tuple[list[np.ndarray], float]:
    generator, discriminator, term, x = aligned(
        weight=0.5, form="contrastive", unit_length=True, scale=5, adaptive=True
    )
    loss = LossConfig(perceptual=PerceptualConfig(weight=0), adversarial=ADVERSARIAL)
    module: nn.Module = DistributedDataParallel(generator) if ranks > 1 else generator
    judge: nn.Module = DistributedDataParallel(discriminator) if ranks > 1 else discriminator
    result = one_forward(loss, semantic=term)(module, [judge], x.chunk(ranks)[rank], 0)
    return [w.grad.numpy() for w in generator.parameters() if w.grad is not None], float(
        result.metrics["loss/semantic"]
    )


def on_rank() -> tuple[list[np.ndarray], float]:
    return contrasted(torch.distributed.get_rank(), torch.distributed.get_world_size())


def test_two_ranks_contrast_the_pictures_of_the_whole_batch() -> None:
    gradients, value = contrasted(0, 1)
    for got, seen in run_distributed_test(on_rank):
        assert seen == pytest.approx(value, rel=1e-9)
        for one, other in zip(got, gradients, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def configured(folder: Path, network: str, steps: int) -> TokenizerTrainConfig:
    semantic = {"weight": 1.0, "network": network, "size": 16, "hidden": 8, "adaptive": "true"}
    settings = {f"loss__semantic__{name}": value for name, value in semantic.items()}
    return parse(TokenizerTrainConfig, tiny.arguments(folder, steps=steps, **settings), prog="test")


def state(folder: Path, step: int) -> dict[str, dict[str, Any]]:
    place = folder / "checkpoints" / f"step-{step:09d}"
    return {name: torch.load(place / f"{name}.pt", weights_only=True) for name in ("tokenizer", "ema")}


def test_a_run_resumes_with_its_projector_and_opens_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, one, other = save(tmp_path / "network"), tmp_path / "one", tmp_path / "other"
    assert train(configured(one, network, 6)) == 0
    original = loop.train_step

    def stopping(config: Any, trained: Any, x: Tensor, step: int, *rest: Any, **named: Any) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return original(config, trained, x, step, *rest, **named)

    monkeypatch.setattr(loop, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(configured(other, network, 6))
    monkeypatch.setattr(loop, "train_step", original)
    assert train(configured(other, network, 6)) == 0

    whole, resumed = state(one, 6), state(other, 6)
    for part, names in whole.items():
        assert any(name.startswith("projector.") for name in names)
        assert not any("teacher" in name or "network" in name for name in names)
        for name, tensor in names.items():
            assert tensor.numpy().tobytes() == resumed[part][name].numpy().tobytes(), name
    opened = open_run(one).tokenizer
    assert not any(name.startswith("projector.") for name in opened.state_dict())
    written = [line for line in read(one / "metrics.jsonl") if "eval/semantic_cosine" in line]
    assert -1 <= written[-1]["eval/semantic_cosine"] <= 1
    assert "semantic" not in json.dumps(sorted(opened.weights()))
