"""On the device: quantizers and whole steps agree with float64 on the CPU, and from the third step on nothing waits.

`python -m pytest -m gpu` runs all this on a GPU; without one the same functions run on the CPU, where no copy waits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.config.training import AdversarialConfig, LossConfig, ModelConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.layers.precision import float32_as
from stage1_tokenizer.quantizers import build_quantizer
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from tests.gpu.sections.parts import StageOne, StageTwo
from tests.stage1_tokenizer.training.textbook import one_forward

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

QUANTIZERS: dict[str, dict[str, Any]] = {
    "vq": {"l2_normalise": True},
    "fsq": {"levels": [5, 5, 3]},
    "lfq": {},
    "bsq": {},
    "ibq": {},
    "gumbel": {},
    "residual": {"codebooks": 3},
    "product": {"codebooks": 2},
    "multiscale": {"scales": [1, 2, 4]},
}

TINY = [
    "--config=launch/recipes/imagenet256/tokenizer.yaml",
    "--model.channels=32",
    "--model.channel_multipliers=[1, 2]",
    "--model.res_blocks=1",
    "--model.z_channels=8",
    "--model.quantizer.codebook_size=64",
    "--data.transform.size=32",
    "--loss.adversarial.start=0",
    "--loss.adversarial.channels=8",
    "--compile=false",
]

SOURCE = CodeSource("0" * 64, 24, (4, 4), {})
LEVELS = CodeSource("0" * 64, 24, (4, 4), {}, codebooks=2)
PRIORS: dict[str, tuple[dict[str, Any], CodeSource]] = {
    "autoregressive": ({}, SOURCE),
    "random order": ({"order": "random"}, SOURCE),
    "masked": ({"kind": "masked"}, SOURCE),
    "depth": ({"kind": "depth", "depth_layers": 1}, LEVELS),
}


@contextmanager
def no_waits(device: str) -> Iterator[None]:
    """Whatever would wait for the GPU inside raises an error."""
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def third_does_not_wait(step: Callable[[], Any], device: str) -> None:
    """Two calls, in which things are made once, then one that may not wait."""
    step()
    step()
    with no_waits(device):
        step()


def quantizer_of(kind: str) -> nn.Module:
    size = {"codebook_size": 75 if kind == "fsq" else 64, "code_dim": 3 if kind == "fsq" else 6}
    torch.manual_seed(0)
    quantizer = build_quantizer(QuantizerConfig(kind, **size, **QUANTIZERS[kind]))  # type: ignore[arg-type]
    for module in quantizer.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)  # far apart, so that rounding chooses no other code
    return quantizer.eval()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", QUANTIZERS)
def test_quantizers_agree_with_float64(kind: str, device: str) -> None:
    quantizer: Any = quantizer_of(kind)
    exact = copy.deepcopy(quantizer).double()
    z_BDhw = torch.randn(2, quantizer.input_channels, 4, 4, generator=torch.Generator().manual_seed(1))
    made, expected = quantizer.to(device)(z_BDhw.to(device)), exact(z_BDhw.double())
    assert torch.equal(made.codes.cpu(), expected.codes)
    torch.testing.assert_close(made.latents.double().cpu(), expected.latents, rtol=1e-5, atol=1e-5)


def gradients(networks: list[nn.Module], config: LossConfig, x_BCHW: Tensor) -> list[Tensor]:
    """All gradients of a step, flat, one tensor for each network."""
    generator, discriminator = networks
    with float32_as("ieee"):
        one_forward(config)(generator, [discriminator], x_BCHW, 0)
    return [
        torch.cat([weight.grad.flatten().double().cpu() for weight in network.parameters() if weight.grad is not None])
        for network in networks
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", ["patch", "stylegan"])
def test_a_step_with_its_kernels_agrees_with_float64(kind: str, channels_last: bool, device: str) -> None:
    """float32 with the device's kernels, beside plain torch in float64 on the CPU."""
    config = LossConfig(adversarial=AdversarialConfig(discriminator=kind, channels=8, group=2))  # type: ignore[arg-type]
    quantizer = QuantizerConfig(codebook_size=64, code_dim=6)
    model = ModelConfig(channels=32, channel_multipliers=[1, 2], res_blocks=1, z_channels=8, quantizer=quantizer)
    torch.manual_seed(0)
    networks = [Tokenizer(model).train(), build_discriminator(config.adversarial, 3)]
    nn.init.normal_(networks[0].quantizer.embedding.weight)  # type: ignore[union-attr, arg-type]
    x_BCHW = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = gradients([copy.deepcopy(network).double() for network in networks], config, x_BCHW.double())
    for network in networks:
        network.to(device)
        if channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        install(network, device)
    for made, exact in zip(gradients(networks, config, x_BCHW.to(device)), expected, strict=True):
        assert float((made - exact).norm() / exact.norm()) < 1e-4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "words", [["--channels_last=true"], ["--loss.adversarial.adaptive=true", "--run.kernels=plain"]]
)
def test_the_third_step_of_stage_one_waits_for_nothing(words: list[str], device: str, tmp_path: Path) -> None:
    third_does_not_wait(StageOne([*TINY, *words], tmp_path, device, 2), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", PRIORS)
def test_the_third_step_of_stage_two_waits_for_nothing(kind: str, device: str, tmp_path: Path) -> None:
    settings, source = PRIORS[kind]
    model = PriorModelConfig(layers=2, width=32, heads=2, **settings)
    third_does_not_wait(StageTwo(model, source, tmp_path, device, 4), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["autoregressive", "masked", "depth"])
def test_the_third_batch_of_samples_waits_for_nothing(kind: str, device: str, tmp_path: Path) -> None:
    settings, source = PRIORS[kind]
    model = PriorModelConfig(layers=1, width=32, heads=2, **settings)
    prior = StageTwo(model, source, tmp_path, device, 4, precision="fp32").raw.eval()
    drawing = Drawing(guidance=3.0, top_k=5)
    token_B = prior.vocabulary.class_tokens(torch.arange(3, device=device))
    uniform_BU = torch.rand(3, prior.draws(drawing), device=device)
    third_does_not_wait(lambda: prior.sample(token_B, uniform_BU, drawing), device)
