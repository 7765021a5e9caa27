from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from launch.command.cli import parse
from launch.strategies.memory import state_bytes
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.model import PRESETS, PriorModelConfig
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.training.cost import Utilisation, cost, dry_run, on_no_device, peak_flops
from tests import forked
from tests.stage2_prior.tiny import SOURCE, tiny_prior

ROOT = Path(__file__).parents[3]
IMAGENET = CodeSource("", 16384, (16, 16), {})
CLASSES = list(map(str, range(1000)))


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("LlamaGen-B", 111e6),
        ("LlamaGen-L", 343e6),
        ("LlamaGen-XL", 775e6),
        ("LlamaGen-XXL", 1.41e9),
        ("LlamaGen-3B", 3.1e9),
    ],
)
def test_presets_have_the_published_numbers_of_parameters(preset: str, published: float):
    found = on_no_device(PriorModelConfig(preset=preset), IMAGENET, CLASSES)  # type: ignore[arg-type]
    assert found.parameters == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("preset", "published"), [("AliTok-B", 177e6), ("AliTok-L", 318e6), ("AliTok-XL", 662e6)])
def test_alitoks_presets_too_but_for_biases_and_with_its_own_codes(preset: str, published: float):
    source = CodeSource("", 4096, (273,), {})
    found = on_no_device(PriorModelConfig(preset=preset), source, CLASSES)  # type: ignore[arg-type]
    assert found.parameters == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("preset", "published"), [("RAR-B", 261), ("RAR-L", 461), ("RAR-XL", 955), ("RAR-XXL", 1499)])
def test_rars_presets_have_its_layers_without_adaln(preset: str, published: int):
    """Published numbers of parameters in millions; adaLN is 6 D² of a layer and 2 D² of the head."""
    config = PriorModelConfig(preset=preset)  # type: ignore[arg-type]
    found = on_no_device(config, CodeSource("", 1024, (16, 16), {}), CLASSES)
    adaln = (6 * config.layers + 2) * config.width**2
    assert found.parameters + adaln == pytest.approx(published * 1e6, rel=0.02)


def test_a_preset_sets_the_shape_and_refuses_another():
    config = PriorModelConfig(preset="LlamaGen-L")
    assert (config.layers, config.width, config.heads, config.inner_width) == (24, 1024, 16, 2816)
    assert PriorModelConfig(preset="LlamaGen-L", layers=24) == config
    with pytest.raises(ValueError, match=r"model\.layers=5 contradicts model\.preset=LlamaGen-L, which has 24"):
        PriorModelConfig(preset="LlamaGen-L", layers=5)
    assert set(PRESETS) >= {"LlamaGen-B", "LlamaGen-3B"}


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_nothing_is_allocated_and_the_numbers_are_those_of_the_built_prior(kind: str):
    config = PriorModelConfig(kind=kind, layers=2, width=32, heads=4)  # type: ignore[arg-type]
    prior = tiny_prior(kind=kind)
    found = on_no_device(config, SOURCE, prior.vocabulary.classes)
    assert found == cost(prior)
    assert found.parameters == sum(weight.numel() for weight in prior.lm.parameters())
    assert found.parameters - found.multiplied == prior.vocabulary.size * 32


def test_operations_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    prior = tiny_prior(class_dropout=0.0)
    prior.lm.set_attn_implementation("eager")  # its products are counted one by one
    with FlopCounterMode(display=False) as counter:
        loss, _ = prior(torch.zeros(4, SOURCE.positions, dtype=torch.int64), torch.full((4,), prior.vocabulary.null))
        loss.backward()
    config = PriorModelConfig(layers=2, width=32, heads=4)
    found = cost(prior)
    # torch counts all of the attention's products, also those that the mask makes useless.
    expected = found.flops_per_code + 12 * config.layers * config.width * SOURCE.positions / 2
    assert counter.get_total_flops() / (4 * SOURCE.positions) == pytest.approx(expected, rel=0.02)


def test_memory_by_strategy():
    one, eight = state_bytes(1, 1), state_bytes(1, 8)
    assert one["DDP"] == one["FSDP2"] == one["ZeRO-3"] == 20
    assert eight == {"DDP": 20, "FSDP2": 2.5, "ZeRO-1": 10, "ZeRO-2": 6.5, "ZeRO-3": 3}


def test_a_dry_run_needs_neither_gpu_nor_codes():
    recipe = "launch/recipes/imagenet256/prior.yaml"
    config = parse(PriorTrainConfig, ["--config", str(ROOT / recipe)], prog="train")
    text = dry_run(config, IMAGENET, CLASSES)
    assert "111.6" in text and "ZeRO-3" in text and "65536 codes" in text
    done = forked.call([sys.executable, "-m", "stage2_prior.train", "--config", recipe, "--dry-run", "true"])
    assert done.returncode == 0 and "(assumed: " in done.stdout
    assert done.stdout.splitlines()[1:] == text.splitlines()[1:]


def test_utilisation_is_the_share_of_the_peak(monkeypatch: pytest.MonkeyPatch):
    clock = [100.0]
    monkeypatch.setattr("stage2_prior.training.cost.time.perf_counter", lambda: clock[0])
    use = Utilisation(flops_per_token=10.0, peak=100.0)
    for _ in range(4):
        use.step(3)
    clock[0] += 2.0
    assert use.take() == pytest.approx(0.6)
    clock[0] += 1.0
    assert use.take() == 0


def test_the_peak_of_an_unknown_device_is_measured():
    peak, origin = peak_flops(torch.device("cpu"), "fp32")
    assert 1e7 < peak < 1e14
    assert "512" in origin
