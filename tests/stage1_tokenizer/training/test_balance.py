"""Feature matching and EnCodec's balance: the step beside the textbook's, written plainly, in float64."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.sounds.config import SoundConfig
from stage1_tokenizer.config.training import AdversarialConfig, LossConfig, ModelConfig, QuantizerConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.losses.adversarial import discriminator_loss, generator_loss
from stage1_tokenizer.media import sounds
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.training.adversary import Adversary
from stage1_tokenizer.training.balance import Balance, Pull
from stage1_tokenizer.training.step import OneForwardStep
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer.training.test_step import assert_same_gradients

RATE = SoundConfig(sample_rate=8000, length=512)
MODEL = ModelConfig(
    spatial_dims=1,
    in_channels=1,
    channels=8,
    channel_multipliers=[1, 2],
    res_blocks=1,
    z_channels=8,
    quantizer=QuantizerConfig(codebook_size=16, code_dim=4, start="batch"),
)
PERIODS = AdversarialConfig(
    discriminator="periods",
    periods=[2, 3],
    channels=2,
    loss="least_squares",
    weight=2.0,
    feature_matching=3.0,
    reduction="sum",
    adaptive=False,
    peak=0.8,
)
STFT = AdversarialConfig(
    discriminator="stft",
    windows=[64, 32],
    channels=4,
    weight=4.0,
    feature_matching=4.0,
    adaptive=False,
    start=5,
    ramp=4,
)
TERMS: dict[str, Any] = {"waveform": 0.1, "mel": {"weight": 2.0, "windows": [64, 32]}}
LOSS = LossConfig(terms=TERMS, adversarial=PERIODS, discriminators=[STFT])


def parts(config: LossConfig) -> tuple[Tokenizer, list[nn.Module], Tensor]:
    torch.manual_seed(0)
    generator = Tokenizer(MODEL).double().train()
    networks = [build_discriminator(one, 1, 1).double() for one in config.adversaries.values()]
    return generator, networks, torch.rand(4, 1, 512, dtype=torch.float64) * 2 - 1


def one_forward(config: LossConfig, **settings: Any) -> OneForwardStep:
    terms = sounds.terms(config, RATE)
    adversaries = [Adversary(adversarial, suffix) for suffix, adversarial in config.adversaries.items()]
    return OneForwardStep(terms, adversaries, quantizer_weight=config.quantizer_weight, **settings)


def balance(config: LossConfig, decay: float = 0.9) -> Balance:
    judges = [f"{name}{suffix}" for suffix in config.adversaries for name in ("adversarial", "feature_matching")]
    return Balance([*config.terms, *judges], decay)


def over(values: list[Tensor], how: str) -> Tensor:
    return sum(values) / (len(values) if how == "mean" else 1)  # type: ignore[return-value]


def every_loss(
    config: LossConfig, networks: list[nn.Module], y: Tensor, x: Tensor, shares: list[float | None]
) -> dict[str, tuple[Tensor, float]]:
    """Each term with its graph, and its weight."""
    losses = {term.name: (term(y, x), term.weight) for term in sounds.terms(config, RATE)}
    for (suffix, one), network, share in zip(config.adversaries.items(), networks, shares, strict=True):
        if share is not None:
            fake, real = network(y), network(x)
            adversarial = over([generator_loss(one.loss, logits) for logits in fake.logits], one.reduction)
            maps = [
                over([(a - b.detach()).abs().mean() for a, b in zip(*pair, strict=True)], one.reduction)
                for pair in zip(fake.features, real.features, strict=True)
            ]
            losses[f"adversarial{suffix}"] = (adversarial, share * one.weight)
            losses[f"feature_matching{suffix}"] = (over(maps, one.reduction), share * one.feature_matching)
    return losses


def judge(one: AdversarialConfig, network: nn.Module, y: Tensor, x: Tensor) -> None:
    fake, real = network(y.detach()), network(x)
    pairs = zip(real.logits, fake.logits, strict=True)
    over([discriminator_loss(one.loss, *pair) for pair in pairs], one.reduction).backward()


class TextbookBalancer:
    """G = Σ w_i/Σw · g_i / average ‖g_i‖, the average as sum of decayed norms over sum of decayed ones."""

    def __init__(self, decay: float):
        self.decay, self.total, self.count = decay, dict[str, float](), dict[str, float]()

    def __call__(self, losses: dict[str, tuple[Tensor, float]], y: Tensor) -> Tensor:
        gradients = {name: torch.autograd.grad(loss, y, retain_graph=True)[0] for name, (loss, _) in losses.items()}
        whole, result = sum(weight for _, weight in losses.values()), torch.zeros_like(y)
        for name, gradient in gradients.items():
            norm = float(torch.stack([one.norm() for one in gradient]).mean())
            self.total[name] = self.decay * self.total.get(name, 0.0) + norm
            self.count[name] = self.decay * self.count.get(name, 0.0) + 1
            average = self.total[name] / self.count[name]
            result += losses[name][1] / whole / (1e-12 + average) * gradient
        return result


@pytest.mark.parametrize("balanced", [False, True])
def test_three_steps_equal_the_textbooks(balanced: bool) -> None:
    """The second discriminator starts in the second of them; weights move, so that averages differ from norms."""
    config = LOSS
    generator, networks, x = parts(config)
    plain, plain_networks = copy.deepcopy(generator), copy.deepcopy(networks)
    step_on = one_forward(config, balance=balance(config) if balanced else None)
    textbook = TextbookBalancer(0.9)
    for step, shares in ((4, [1.0, None]), (5, [1.0, 0.25]), (6, [1.0, 0.5])):
        for module in (generator, *networks, plain, *plain_networks):
            module.zero_grad()
        output = plain(x)
        losses = every_loss(config, plain_networks, output.x_BCHW, x, shares)  # type: ignore[arg-type]
        quantizer = sum(output.losses.values())
        if balanced:
            gradient = textbook(losses, output.x_BCHW)
            (output.x_BCHW * gradient.detach()).sum().backward(retain_graph=True)
        else:
            sum(weight * loss for loss, weight in losses.values()).backward(retain_graph=True)  # type: ignore[union-attr]
        quantizer.backward()  # type: ignore[union-attr]
        for network in plain_networks:
            network.zero_grad()
        for one, network, share in zip(config.adversaries.values(), plain_networks, shares, strict=True):
            if share is not None:
                judge(one, network, output.x_BCHW, x)

        result = step_on(generator, networks, x, step)

        assert result.trained == [share is not None for share in shares]
        for module, expected in zip((generator, *networks), (plain, *plain_networks), strict=True):
            assert_same_gradients(module, expected)
        for name, (loss, _) in losses.items():
            assert float(result.metrics[f"loss/{name}"]) == pytest.approx(float(loss.detach()), rel=1e-9)
        assert ("balance/mel" in result.metrics) == balanced
        with torch.no_grad():
            for module in (generator, *networks, plain, *plain_networks):
                for parameter in module.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.01 * parameter.grad


def test_each_network_is_called_once_for_each_side() -> None:
    generator, networks, x = parts(LOSS)
    calls: list[tuple[str, bool]] = []
    for name, module in (("g", generator), ("d", networks[0])):
        module.register_forward_hook(lambda _, inputs, __, name=name: calls.append((name, inputs[0] is x)))
    one_forward(replace(LOSS, discriminators=[]))(generator, networks[:1], x, 0)
    assert calls == [("g", True), ("d", True), ("d", False)], "D(x) comes first, as its features are a target"


def test_what_is_beyond_a_clips_end_reaches_no_term() -> None:
    generator, networks, x = parts(LOSS)
    valid = torch.ones_like(x)
    valid[1, :, 200:] = 0
    x = x * valid
    step_on = one_forward(replace(LOSS, quantizer_weight=0.0))
    seen: list[Tensor] = []

    class Zeroed(nn.Module):
        """The generator, whose samples beyond the end are replaced by noise."""

        def __init__(self) -> None:
            super().__init__()
            self.decoder = generator.decoder

        def forward(self, x: Tensor, *others: Any) -> Any:
            output = generator(x, *others)
            noise = torch.rand_like(output.x_BCHW)
            y = torch.where(valid > 0, output.x_BCHW, noise if seen else output.x_BCHW)
            seen.append(y)
            return replace(output, x_BCHW=y)

    first = {name: float(value) for name, value in step_on(Zeroed(), networks, x, 6, valid).metrics.items()}
    second = {name: float(value) for name, value in step_on(Zeroed(), networks, x, 6, valid).metrics.items()}
    assert not torch.equal(seen[0], seen[1])
    assert {k: v for k, v in first.items() if "loss/" in k} == {k: v for k, v in second.items() if "loss/" in k}


def one_part(rank: int, ranks: int, wrap: bool) -> tuple[list[np.ndarray], dict[str, float]]:
    generator, networks, x = parts(LOSS)
    step_on = one_forward(LOSS, balance=balance(LOSS))
    modules: list[nn.Module] = [generator, *networks]
    if wrap:
        modules = [DistributedDataParallel(module) for module in modules]
    for step in (6, 7):
        for module in modules:
            module.zero_grad()
        result = step_on(modules[0], modules[1:], x.chunk(ranks)[rank], step)
    gradients = [one.grad.numpy().copy() for module in modules for one in module.parameters() if one.grad is not None]
    return gradients, {name: float(value) for name, value in result.metrics.items()}


def on_rank() -> tuple[list[np.ndarray], dict[str, float]]:
    return one_part(torch.distributed.get_rank(), torch.distributed.get_world_size(), wrap=True)


def test_two_ranks_equal_one_on_the_same_batch() -> None:
    expected, metrics = one_part(0, 1, wrap=False)
    for gradients, own in run_distributed_test(on_rank):
        for got, wanted in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)
        for name in [name for name in metrics if name.startswith("balance/")]:
            assert own[name] == pytest.approx(metrics[name], rel=1e-5), name


def test_averages_are_kept_and_pass_over_what_is_not_finite() -> None:
    one = Balance(["a", "b"], 0.5)
    gradient = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    total, norms = one({"a": Pull(2 * gradient, 2.0, 2.0)})
    torch.testing.assert_close(total, gradient / 5)
    assert norms == {"balance/a": torch.tensor(5.0)}
    one({"a": Pull(gradient * torch.nan, 1.0, 2.0), "b": Pull(gradient, 1.0, 1.0)})
    other = Balance(["b", "new", "a"], 0.5)
    other.load_state_dict(one.state_dict())
    assert {name: pair.tolist() for name, pair in other.state_dict().items()} == {
        "a": [5.0, 1.0],
        "b": [5.0, 1.0],
        "new": [0.0, 0.0],
    }
    _, norms = other({"a": Pull(2 * gradient, 1.0, 1.0)})
    assert float(norms["balance/a"]) == pytest.approx((0.5 * 5 + 10) / 1.5)
    silent, _ = other({"b": Pull(torch.zeros(2, 2), 1.0, 1.0)})
    assert silent.isfinite().all()
