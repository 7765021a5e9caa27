"""DiffAugment against plain loops; what is drawn; the consistency term; MaskBit's discriminator."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.config.discriminators import AugmentConfig
from stage1_tokenizer.config.losses import AdversarialConfig, LossConfig, PerceptualConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.discriminators.augment import augmented
from stage1_tokenizer.training import adversary as module
from stage1_tokenizer.training.adversary import FAKE, FAKE_AGAIN, REAL, REAL_AGAIN, Adversary
from tests.stage1_tokenizer.training.test_step import assert_same_gradients, parts
from tests.stage1_tokenizer.training.textbook import one_forward

ALL = AugmentConfig(translate=0.125, colour=True, cutout=0.2)
U = torch.rand(4, 7, generator=torch.Generator().manual_seed(5)).double()


def plain(x_CHW: Tensor, given: list[float], config: AugmentConfig) -> Tensor:
    """One picture, pixel by pixel."""
    height, width = x_CHW.shape[1:]
    result = x_CHW.clone()
    if config.translate:
        result = torch.zeros_like(x_CHW)
        moves = []
        for uniform, side in zip(given[:2], (height, width), strict=True):
            most = round(config.translate * side)
            moves.append(int(uniform * (2 * most + 1)) - most)
        for row in range(height):
            for column in range(width):
                source = row + moves[0], column + moves[1]
                if 0 <= source[0] < height and 0 <= source[1] < width:
                    result[:, row, column] = x_CHW[:, source[0], source[1]]
    if config.colour:
        result = result + given[2] - 0.5
        result = (result - result.mean(0)) * 2 * given[3] + result.mean(0)
        result = (result - result.mean()) * (0.5 + given[4]) + result.mean()
    if config.cutout:
        firsts = []
        sizes = [round(config.cutout * side) for side in (height, width)]
        for uniform, side, size in zip(given[5:], (height, width), sizes, strict=True):
            firsts.append(int(uniform * (side + 1 - size % 2)) - size // 2)
        for row in range(max(0, firsts[0]), min(height, firsts[0] + sizes[0])):
            for column in range(max(0, firsts[1]), min(width, firsts[1] + sizes[1])):
                result[:, row, column] = 0
    return result


@pytest.mark.parametrize(
    "config", [AugmentConfig(translate=0.125), AugmentConfig(colour=True), AugmentConfig(cutout=0.2), ALL]
)
def test_each_picture_is_changed_as_published(config: AugmentConfig) -> None:
    x = torch.rand(4, 3, 16, 24, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    expected = torch.stack([plain(picture, given.tolist(), config) for picture, given in zip(x, U, strict=True)])
    leaf = x.requires_grad_()
    result = augmented(leaf, U, config)
    assert torch.allclose(result, expected, atol=1e-9)
    (gradient,) = torch.autograd.grad(result.sum(), leaf)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().sum()) > 0


def test_draws_follow_from_seed_step_and_place_on_any_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    adversary = Adversary(AdversarialConfig(augment=ALL), seed=3)
    x = torch.rand(4, 1, 16, 16) * 2 - 1
    whole = adversary.seen(x, 7, REAL)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(module, "world", lambda rank=rank: (rank, 2))
        parts.append(adversary.seen(x.chunk(2)[rank], 7, REAL))
    assert torch.equal(torch.cat(parts), whole)
    monkeypatch.setattr(module, "world", lambda: (0, 1))
    others = [
        adversary.seen(x, 8, REAL),
        adversary.seen(x, 7, FAKE),
        Adversary(AdversarialConfig(augment=ALL), seed=4).seen(x, 7, REAL),
        Adversary(AdversarialConfig(augment=ALL), "_2", seed=3).seen(x, 7, REAL),
    ]
    assert not any(torch.equal(other, whole) for other in others)
    assert Adversary(AdversarialConfig()).seen(x, 7, REAL) is x


def test_the_step_has_augmented_pictures_and_the_consistency_term() -> None:
    config = AdversarialConfig(
        channels=4, layers=2, norm="group", adaptive=False, augment=ALL, consistency=4.0, lecam=0.1
    )
    generator, network, _, x = parts(config)
    plain_generator, plain_network = copy.deepcopy(generator), copy.deepcopy(network)
    adversary = Adversary(config)
    output = plain_generator(x)
    against = -plain_network(adversary.seen(output.x_BCHW, 2, FAKE)).mean()
    total = F.l1_loss(output.x_BCHW, x) + config.weight * against + sum(output.losses.values())
    total.backward(inputs=list(plain_generator.parameters()))
    x_hat = output.x_BCHW.detach()
    real, fake = (plain_network(adversary.seen(seen, 2, draw)) for seen, draw in ((x, REAL), (x_hat, FAKE)))
    again = [(real, x, REAL_AGAIN), (fake, x_hat, FAKE_AGAIN)]
    others = [(one, plain_network(adversary.seen(seen, 2, draw))) for one, seen, draw in again]
    apart = torch.stack([(other - one).square().mean() for one, other in others]).sum()
    hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    lecam = (real - fake.detach().mean()).square().mean() + (fake - real.detach().mean()).square().mean()
    (hinge + 4 * apart + 0.1 * lecam).backward()

    loss = LossConfig(perceptual=PerceptualConfig(weight=0), adversarial=config)
    result = one_forward(loss)(generator, [network], x, 2)

    assert_same_gradients(generator, plain_generator)
    assert_same_gradients(network, plain_network)
    assert float(result.metrics["gan/consistency"]) == pytest.approx(float(apart.detach()), rel=1e-9)
    same = replace(config, augment=AugmentConfig(cutout=0.001))  # of no pixel: both augmentations are the identity
    unchanged = one_forward(LossConfig(perceptual=PerceptualConfig(weight=0), adversarial=same))
    assert float(unchanged(generator, [network], x, 2).metrics["gan/consistency"]) == 0


def test_settings_that_dont_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"consistency=4 needs an augmentation"):
        AdversarialConfig(consistency=4)
    with pytest.raises(ValueError, match=r"augment=.* is not supported with loss\.adversarial\.discriminator=stft"):
        AdversarialConfig(discriminator="stft", augment=ALL).check_used()
    with pytest.raises(ValueError, match=r"augment=.* needs 2 axes"):
        AdversarialConfig(augment=ALL).check_samples(1, 1)


def test_maskbits_discriminator_has_the_published_layers() -> None:
    config = AdversarialConfig(discriminator="maskbit", channels=8, layers=2, norm="group")
    network = build_discriminator(config, 3).double()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    weights = dict(network.named_parameters())
    convolutions = [
        (weights[name], weights[name.replace("weight", "bias")]) for name in weights if weights[name].ndim == 4
    ]
    assert [tuple(weight.shape) for weight, _ in convolutions] == [
        (8, 3, 5, 5),
        (8, 8, 3, 3),
        (16, 8, 3, 3),
        (16, 16, 1, 1),
        (1, 16, 5, 5),
    ]
    tap = torch.tensor([1.0, 3, 3, 1]).double()
    kernel = (tap[:, None] * tap / 64)[None, None]
    h = F.leaky_relu(F.conv2d(x, *convolutions[0], padding=2), 0.1)
    for weight, bias in convolutions[1:3]:
        h = F.conv2d(h, weight, bias, padding=1)
        h = F.conv2d(F.pad(h, (1, 1, 1, 1)), kernel.expand(h.shape[1], 1, 4, 4), stride=2, groups=h.shape[1])
        h = F.leaky_relu(F.group_norm(h, h.shape[1]), 0.1)
    h = F.leaky_relu(F.conv2d(F.adaptive_max_pool2d(h, 16), *convolutions[3]), 0.1)
    assert torch.allclose(network(x), F.conv2d(h, *convolutions[4], padding=2), atol=1e-9)
