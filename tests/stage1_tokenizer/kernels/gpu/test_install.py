"""GPU kernels in networks: what is installed, what it does on a CPU, and what is called on a GPU, on fake tensors."""

from __future__ import annotations

import copy
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from stage1_tokenizer.kernels import install as installing
from stage1_tokenizer.kernels.cpu.group_norm import FastNorm
from stage1_tokenizer.kernels.gpu import nearest
from stage1_tokenizer.kernels.gpu.adaptive_norm import FusedAdaptiveNorm
from stage1_tokenizer.kernels.gpu.group_norm import FusedNorm
from stage1_tokenizer.kernels.gpu.upsampling import NarrowUpsample
from stage1_tokenizer.kernels.install import AnyNorm, install, install_for_all
from stage1_tokenizer.layers.convolution import Upsample
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.kernels.gpu.compiling import need_triton
from tests.stage1_tokenizer.small_backbones import BACKBONES


@pytest.fixture(autouse=True)
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were there; searches by it are on in this process only while a test runs."""
    monkeypatch.setattr(installing, "available", lambda: True)
    monkeypatch.setattr(nearest, "_triton", False)


def built(name: str = "conv") -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(replace(BACKBONES[name], channels=32)).eval()


def kinds(module: nn.Module) -> set[type[nn.Module]]:
    return {type(part) for part in module.modules()}


def test_layers_change_their_class_alone() -> None:
    for name, fast in (("conv", {FusedNorm, NarrowUpsample}), ("magvit2", {FusedNorm, FusedAdaptiveNorm})):
        tokenizer, plain = built(name), built(name)
        install(tokenizer, "cuda")
        assert nearest._triton
        assert fast <= kinds(tokenizer) and not {Norm, Upsample} & kinds(tokenizer)
        assert list(tokenizer.state_dict()) == list(plain.state_dict())
        x_BCHW = torch.rand(1, 3, 16, 16) * 2 - 1
        assert torch.equal(tokenizer.reconstruct(x_BCHW)[0], plain.reconstruct(x_BCHW)[0])


def test_without_triton_all_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "available", lambda: False)
    tokenizer = built()
    before = kinds(tokenizer)
    install(tokenizer, "cuda")
    assert kinds(tokenizer) == before and not nearest._triton


@pytest.mark.parametrize("gpu", [False, True])
def test_what_is_opened_has_the_kernels_of_each_device_that_is_there(
    gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    tokenizer = built()
    install_for_all(tokenizer)
    install(tokenizer, "cpu")
    assert (AnyNorm in kinds(tokenizer)) is gpu and (FastNorm in kinds(tokenizer)) is not gpu
    file = io.BytesIO()
    torch.save(tokenizer, file)
    file.seek(0)
    for other in (copy.deepcopy(tokenizer), torch.load(file, weights_only=False)):
        assert kinds(other) == kinds(tokenizer)


def test_kernels_of_the_cpu_still_serve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.group_norm.LEAST_VALUES", 1)
    norm = nn.Sequential(Norm(32))
    install_for_all(norm)
    x_BCHW = torch.randn(1, 32, 8, 8, requires_grad=True).to(memory_format=torch.channels_last)
    assert "GroupNormSwish" in norm(x_BCHW).grad_fn.name()


@pytest.mark.skipif(shutil.which("g++") is None, reason="fake CUDA tensors need a C++ compiler")
def test_on_gpus_norms_and_upsampling_keep_the_type_of_autocast() -> None:
    need_triton()
    line = [sys.executable, "-W", "ignore", "-m", "tests.stage1_tokenizer.kernels.gpu.on_fakes"]
    environment = {**tiny.environment(), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("conv", "magvit2"):
        calls = found[name]
        assert calls["vqloom.group_norm.default bfloat16"] == calls["vqloom.group_norm_backward.default bfloat16"] > 20
        assert calls["vqloom.nearest_code.default float32"] == 1
        assert not any(
            word in called for called in calls for word in ("native", "silu", "upsample_nearest2d.default float32")
        )
    assert found["conv"]["aten.upsample_nearest2d.default bfloat16"] == 2
    assert "aten.native_group_norm.default float64" in found["float64"]
    assert not any("vqloom.group_norm" in called for called in found["float64"])
