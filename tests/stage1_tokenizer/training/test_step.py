"""The one-forward step against the textbook step, written plainly, in float64; on one process and on two."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stage1_tokenizer.config.training import (
    AdversarialConfig,
    LossConfig,
    ModelConfig,
    PerceptualConfig,
    QuantizerConfig,
)
from stage1_tokenizer.discriminators import Discriminator
from stage1_tokenizer.layers.recompute import recompute_activations
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.training.adversary import Adversary
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer.small_backbones import BACKBONES
from tests.stage1_tokenizer.training.textbook import one_forward, textbook_step

MODEL = ModelConfig(
    channels=8,
    channel_multipliers=[1, 2],
    res_blocks=1,
    z_channels=8,
    quantizer=QuantizerConfig(codebook_size=16, code_dim=4, start="batch"),
)
ADVERSARIAL = AdversarialConfig(channels=4, layers=2)
EVERYTHING = replace(ADVERSARIAL, lecam=0.2, lecam_decay=0.5, penalty=1.0, penalty_fake=0.7, penalty_every=1)


def random_lpips() -> LPIPS:
    """AlexNet's shapes with random weights: the test needs no downloaded ones."""
    shapes = [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)]
    kernels = [(torch.randn(o, i, k, k) * (2 / (i * k * k)) ** 0.5, torch.randn(o) * 0.1) for o, i, k in shapes]
    return LPIPS("alex", kernels, [torch.rand(o) for o, _, _ in shapes]).double()


def parts(adversarial: AdversarialConfig, model: ModelConfig = MODEL) -> tuple[Tokenizer, Discriminator, LPIPS, Tensor]:
    torch.manual_seed(0)
    generator = Tokenizer(model).double().train()
    discriminator = Discriminator(adversarial, in_channels=3).double()
    return generator, discriminator, random_lpips(), torch.rand(4, 3, 32, 32, dtype=torch.float64) * 2 - 1


def trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def assert_same_gradients(module: nn.Module, plain: nn.Module) -> None:
    expected = [parameter.grad for parameter in plain.parameters()]
    # Relative to the largest gradient: a convolution's bias before a group norm has one that is 0 but for rounding.
    largest = max((float(gradient.norm()) for gradient in expected if gradient is not None), default=0.0)
    for (name, parameter), gradient in zip(module.named_parameters(), expected, strict=True):
        assert (parameter.grad is None) == (gradient is None), name
        if parameter.grad is not None and gradient is not None:
            error = float((parameter.grad - gradient).norm()) / max(float(gradient.norm()), 1e-6 * largest)
            assert error < 1e-5, f"{name}: relative error {error}"


@pytest.mark.parametrize(
    ("adversarial", "step", "share"),
    [
        (ADVERSARIAL, 0, 1.0),
        (replace(ADVERSARIAL, adaptive=False, norm="group"), 0, 1.0),
        (replace(ADVERSARIAL, loss="non_saturating", norm="none"), 0, 1.0),
        (replace(ADVERSARIAL, loss="vanilla", start=10, ramp=4), 11, 0.5),
        (replace(ADVERSARIAL, start=10), 9, None),
        (replace(ADVERSARIAL, loss="least_squares", lecam=0.3), 0, 1.0),
        (replace(ADVERSARIAL, penalty=2.0, penalty_every=4, start=3), 7, 1.0),
        (replace(ADVERSARIAL, penalty=2.0, penalty_fake=0.5, penalty_every=1), 0, 1.0),
    ],
)
def test_gradients_equal_the_textbook_step(adversarial: AdversarialConfig, step: int, share: float | None) -> None:
    config = LossConfig(pixel="l1", adversarial=adversarial, perceptual=PerceptualConfig(weight=0.7))
    generator, discriminator, lpips, x = parts(adversarial)
    plain_generator, plain_discriminator = copy.deepcopy(generator), copy.deepcopy(discriminator)
    values = textbook_step(config, plain_generator, [(plain_discriminator, share)], lpips, x)

    result = one_forward(config, lpips)(generator, [discriminator], x, step)

    assert_same_gradients(generator, plain_generator)
    assert result.trained == [share is not None]
    assert_same_gradients(discriminator, plain_discriminator)
    for name, value in values.items():
        assert float(result.metrics[name]) == pytest.approx(value, rel=1e-9)
    with torch.no_grad():
        quantizer = plain_generator(x).losses
    assert quantizer, "the quantizer's losses are logged too"
    for name, loss in quantizer.items():
        assert float(result.metrics[f"loss/{name}"]) == pytest.approx(float(loss), rel=1e-9)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_equals_the_textbook_step(name: str, recompute: bool) -> None:
    config = LossConfig(adversarial=ADVERSARIAL, perceptual=PerceptualConfig(weight=0))
    model = replace(BACKBONES[name], dropout=0.1)
    generator, discriminator, _, x = parts(ADVERSARIAL, model)
    plain_generator, plain_discriminator = copy.deepcopy(generator), copy.deepcopy(discriminator)
    torch.manual_seed(1)
    values = textbook_step(config, plain_generator, [(plain_discriminator, 1.0)], None, x)
    if recompute:
        recompute_activations(generator)
    torch.manual_seed(1)
    result = one_forward(config)(generator, [discriminator], x, 0)
    assert_same_gradients(generator, plain_generator)
    assert_same_gradients(discriminator, plain_discriminator)
    assert float(result.metrics["gan/weight"]) != 1
    for key, value in values.items():
        assert float(result.metrics[key]) == pytest.approx(value, rel=1e-9)


def test_before_its_start_the_discriminator_is_not_called() -> None:
    config = LossConfig(perceptual=PerceptualConfig(weight=0), adversarial=replace(ADVERSARIAL, start=5))
    generator, _, _, x = parts(ADVERSARIAL)
    result = one_forward(config)(generator, [], x, 4)
    assert result.trained == [False]
    assert "loss/discriminator" not in result.metrics
    with pytest.raises(ValueError, match="needs 1 discriminator"):
        one_forward(config)(generator, [], x, 5)


def test_ramp_rises_to_one() -> None:
    adversary = Adversary(replace(ADVERSARIAL, start=3, ramp=2))
    assert [adversary.ramp(number) for number in range(6)] == [None, None, None, 0.5, 1.0, 1.0]


def test_perceptual_share_estimates_from_some_pictures() -> None:
    config = LossConfig(perceptual=PerceptualConfig(fraction=0.5), adversarial=AdversarialConfig(weight=0))
    generator, _, lpips, x = parts(ADVERSARIAL)
    result = one_forward(config, lpips)(generator, [], x, 0)
    expected = lpips(generator(x).x_BCHW.detach()[1::2], x[1::2]).mean()
    assert float(result.metrics["loss/perceptual"]) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("quantizer", [
    QuantizerConfig(codebook_size=16, code_dim=4, start="kmeans", learning="moving_average", revive_after=1),
    QuantizerConfig(kind="lfq", codebook_size=16),
    QuantizerConfig(kind="residual", codebook_size=8, codebooks=2, code_dim=4),
])  # fmt: skip
def test_a_batch_in_four_parts_gives_what_it_gives_at_once(quantizer: QuantizerConfig) -> None:
    adversarial = replace(EVERYTHING, norm="batch")
    generator, discriminator, lpips, x = parts(adversarial, replace(MODEL, quantizer=quantizer, dropout=0.0))
    config = LossConfig(adversarial=adversarial)
    expected: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    for micro_batch in (None, 1):
        one, other = copy.deepcopy(generator), copy.deepcopy(discriminator)
        step = one_forward(config, lpips, micro_batch=micro_batch)
        for number in range(2):
            for part in (one, other):
                part.zero_grad()
            result = step(one, [other], x, number)
            with torch.no_grad():
                for parameter in [*trained(one), *trained(other)]:
                    parameter -= 0.01 * parameter.grad
        expected.append((result.metrics, {**one.state_dict(), **{f"d.{k}": v for k, v in other.state_dict().items()}}))
    for at_once, in_parts in zip(*expected, strict=True):
        assert at_once.keys() == in_parts.keys()
        for name in at_once:
            torch.testing.assert_close(in_parts[name], at_once[name], rtol=1e-6, atol=1e-9, msg=name)


def test_parts_bound_the_memory_of_the_forward() -> None:
    """What the graph keeps grows with the part, not with the batch: all but the parts' results is computed anew."""
    generator, _, _, x = parts(ADVERSARIAL)

    def kept(micro_batch: int | None) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            generator(x, micro_batch)
        return sum(sizes)

    assert kept(1) < kept(None) / 3


def one_part(rank: int, ranks: int, wrap: bool) -> tuple[list[Tensor], list[Tensor], dict[str, float]]:
    """Gradients and metrics of this rank's part of the batch."""
    config = LossConfig(pixel="huber", adversarial=EVERYTHING)
    generator, discriminator, lpips, x = parts(EVERYTHING)
    step = one_forward(config, lpips)
    modules: tuple[nn.Module, nn.Module] = (generator, discriminator)
    if wrap:
        modules = (DistributedDataParallel(generator), DistributedDataParallel(discriminator))
    mine = x.chunk(ranks)[rank]
    for number in range(2):  # the second step also shows that DDP is ready again
        generator.zero_grad()
        discriminator.zero_grad()
        result = step(modules[0], modules[1:], mine, number)
    gradients = [[parameter.grad.clone() for parameter in trained(module)] for module in (generator, discriminator)]
    return gradients[0], gradients[1], {name: float(value) for name, value in result.metrics.items()}


def on_rank() -> tuple[list[np.ndarray], dict[str, float]]:
    distributed = torch.distributed
    of_generator, of_discriminator, metrics = one_part(distributed.get_rank(), distributed.get_world_size(), wrap=True)
    return [gradient.numpy() for gradient in of_generator + of_discriminator], metrics


def test_two_ranks_equal_one_process_on_the_same_batch() -> None:
    expected_generator, expected_discriminator, expected = one_part(0, 1, wrap=False)
    ranks = run_distributed_test(on_rank)
    for gradients, metrics in ranks:
        for got, wanted in zip(gradients, expected_generator + expected_discriminator, strict=True):
            np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-6, atol=1e-9)
        assert metrics["gan/weight"] == pytest.approx(expected["gan/weight"], rel=1e-6)
    for name in expected:
        assert sum(metrics[name] for _, metrics in ranks) / 2 == pytest.approx(expected[name], rel=1e-6), name


def test_bf16_keeps_losses_in_float32() -> None:
    torch.manual_seed(0)
    generator, discriminator = Tokenizer(MODEL).train(), Discriminator(ADVERSARIAL, in_channels=3)
    config = LossConfig(adversarial=ADVERSARIAL)
    step = one_forward(config, random_lpips().float(), autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    result = step(generator, [discriminator], torch.rand(2, 3, 32, 32) * 2 - 1, 0)
    assert {value.dtype for value in result.metrics.values()} == {torch.float32}
    assert all(parameter.grad.isfinite().all() for parameter in (*trained(generator), *trained(discriminator)))
