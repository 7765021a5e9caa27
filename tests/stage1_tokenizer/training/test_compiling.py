"""torch.compile in stage one: no graph breaks, no graph for each step, the same numbers, and where it fails.

By backends that run all of torch.compile but the last stage, which needs a C++ compiler, or its tracing alone.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from launch.command.cli import UserError, parse
from launch.run.compiling import or_uncompiled
from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.discriminators.dino import ProjectedDiscriminator
from stage1_tokenizer.discriminators.dino_vit import FrozenViT
from stage1_tokenizer.layers.recompute import recompute_activations
from stage1_tokenizer.quantizers import KINDS
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.training.compiling import compile_networks
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.discriminators import frozen_vit
from tests.stage1_tokenizer.losses.random_lpips import random_lpips
from tests.stage1_tokenizer.quantizers.test_kinds import EVERY
from tests.stage1_tokenizer.small_backbones import BACKBONES

QUANTIZERS = {name: config for name, config in EVERY.items() if name != "vq-rotation"} | {
    "multiscale": replace(EVERY["multiscale"], scales=[1, 2, 4, 8]),
    "gaussian": replace(EVERY["vq-simvq"], kind="gaussian", reparametrise="none"),
}
CONV = replace(BACKBONES["conv"], channels=4, channel_multipliers=[1, 1], z_channels=4)


@pytest.fixture(autouse=True)
def whole_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A break is an error, in networks too that are compiled in place."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, fullgraph=True))
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, fullgraph=True))
    yield
    torch.compiler.reset()


def graphs() -> int:
    """How many graphs the test has compiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def same_steps(plain: nn.Module, compiled: nn.Module, steps: int, size: int = 16, rank: int = 0) -> None:
    """The same reconstructions, codes, gradients and statistics from both."""
    for step in range(steps):
        x_BCHW = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(step + 100 * rank)) * 2 - 1
        outputs = []
        for tokenizer in (plain, compiled):
            torch.manual_seed(step)
            tokenizer.zero_grad()
            outputs.append(tokenizer(x_BCHW))
            (outputs[-1].x_BCHW.square().mean() + sum(outputs[-1].losses.values())).backward()
        one, other = outputs
        torch.testing.assert_close(other.x_BCHW, one.x_BCHW, rtol=1e-4, atol=1e-5)
        assert one.codes_Bhw is None or torch.equal(other.codes_Bhw, one.codes_Bhw)
        for name, value in one.losses.items():
            torch.testing.assert_close(other.losses[name], value, rtol=1e-5, atol=1e-7)
        for (name, first), second in zip(plain.named_parameters(), compiled.parameters(), strict=True):
            assert (first.grad is None) == (second.grad is None), name
            if first.grad is not None:
                torch.testing.assert_close(second.grad, first.grad, rtol=1e-3, atol=1e-6, msg=name)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


class OneLayer(nn.Module):
    """A decoder of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.last_layer = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(4, 3, 1)


def pair(
    config: Any, *, tiny_networks: bool = False, backend: str = "aot_eager", **settings: Any
) -> tuple[Tokenizer, Tokenizer]:
    """A tokenizer in training, plain and compiled."""
    torch.manual_seed(0)
    plain = Tokenizer(config).train()
    if tiny_networks:
        plain.encoder, plain.decoder = nn.Conv2d(3, 4, 2, 2), OneLayer()  # type: ignore[assignment]
    compiled = copy.deepcopy(plain)
    compile_networks(compiled, [], backend=backend, **settings)
    return plain, compiled


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_generator_is_one_graph_with_every_quantizer(name: str) -> None:
    """And one more for the steps that revive codes; none for each step's number."""
    plain, compiled = pair(replace(CONV, quantizer=QUANTIZERS[name]), tiny_networks=True)
    same_steps(plain, compiled, steps=6)
    assert graphs() == (2 if QUANTIZERS[name].revive_after else 1)
    assert {config.kind for config in QUANTIZERS.values()} == set(KINDS)


@pytest.mark.parametrize("name", ["magvit2", "vit_sincos", "titok"])
def test_the_generator_is_one_graph_with_every_backbone_and_activation_checkpointing(name: str) -> None:
    plain, compiled = pair(BACKBONES[name], backend="eager")
    recompute_activations(compiled)
    same_steps(plain, compiled, steps=2, size=32)
    assert graphs() == 1


def test_a_batch_in_parts_is_compiled_once_for_all_parts() -> None:
    plain, compiled = pair(CONV, in_parts=True, backend="eager")
    plain.forward = functools.partial(plain.forward, micro_batch=1)  # type: ignore[method-assign]
    compiled.forward = functools.partial(compiled.forward, micro_batch=1)  # type: ignore[method-assign]
    same_steps(plain, compiled, steps=2)
    assert graphs() == 2, "encoder and decoder"


DISCRIMINATORS = {
    "patch": AdversarialConfig(channels=4, layers=1, spectral_norm=True, blur=True),
    "stylegan": AdversarialConfig(discriminator="stylegan", channels=4, layers=2, group=2),
    "dino": AdversarialConfig(discriminator="dino", channels=4, weights="given", resize=24, norm="group"),
}


def frozen_and_small(config: AdversarialConfig) -> nn.Module:
    torch.manual_seed(1)
    if config.discriminator == "dino":
        return ProjectedDiscriminator(config, FrozenViT(frozen_vit.vit_weights()))
    return build_discriminator(config, 3)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminators_are_one_graph(name: str) -> None:
    plain = frozen_and_small(DISCRIMINATORS[name])
    compiled = copy.deepcopy(plain)
    compile_networks(Tokenizer(CONV), [compiled], backend="eager")
    x_BCHW = torch.rand(2, 3, 16, 16) * 2 - 1
    for network in (plain, compiled):
        network(x_BCHW).square().mean().backward()
    for (key, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6, msg=key)
    assert graphs() == 1


def test_lpips_is_one_graph() -> None:
    plain, compiled = random_lpips(), random_lpips()
    compiled.compile(backend="aot_eager")
    x, reference = torch.rand(2, 2, 3, 32, 32).mul(2).sub(1)
    values = [lpips(x.requires_grad_(), reference) for lpips in (plain, compiled)]
    torch.testing.assert_close(values[1], values[0])
    gradients = [torch.autograd.grad(value.sum(), x)[0] for value in values]
    torch.testing.assert_close(gradients[1], gradients[0])
    assert graphs() == 1


def both_over_ranks() -> None:
    """Raises AssertionError unless generator and discriminator do the same compiled, wrapped by DDP on this rank."""
    config = replace(EVERY["vq-kmeans"], revive_after=2)
    plain, compiled = pair(replace(CONV, quantizer=config), tiny_networks=True)
    discriminators = [build_discriminator(AdversarialConfig(channels=4, layers=1), 3) for _ in range(2)]
    discriminators[1].load_state_dict(discriminators[0].state_dict())
    compile_networks(Tokenizer(CONV), discriminators[1:], backend="aot_eager")
    options: Any = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    generators = [DistributedDataParallel(tokenizer, **options) for tokenizer in (plain, compiled)]
    networks = [DistributedDataParallel(network, **options) for network in discriminators]
    same_steps(generators[0], generators[1], steps=3, rank=torch.distributed.get_rank())
    x_BCHW = torch.rand(2, 3, 16, 16)
    for network in networks:
        network(x_BCHW).square().mean().backward()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6)


def test_compiled_networks_do_the_same_over_two_ranks() -> None:
    run_distributed_test(both_over_ranks)


class Said:
    """A run that collects what it says."""

    def __init__(self, device: str):
        self.device, self.said = torch.device(device), ""

    def say(self, text: str) -> None:
        self.said += text + "\n"


def failing(config: TokenizerTrainConfig) -> int:
    """A training whose compilation fails."""
    if not config.compile:
        return 7
    from torch._dynamo.exc import TorchDynamoException

    raise TorchDynamoException("backend='inductor' raised:\nno compiler works")


def test_where_compiling_fails_the_run_ends_with_one_line_or_goes_on_if_it_may(tmp_path: Path) -> None:
    config = parse(TokenizerTrainConfig, tiny.arguments(tmp_path, compile="true"), prog="test")
    run: Any = Said("cuda")
    with pytest.raises(UserError, match=r"compile=true can't be done here \(.*works.*\): set compile=false") as caught:
        or_uncompiled(config, run, failing)
    assert "\n" not in str(caught.value)
    assert or_uncompiled(replace(config, compile_fallback=True), run, failing) == 7
    assert "the run goes on without it" in run.said
    assert or_uncompiled(replace(config, compile=False), run, failing) == 7
    on_cpu: Any = Said("cpu")
    assert or_uncompiled(config, on_cpu, failing) == 7
    assert "is for GPUs" in on_cpu.said
