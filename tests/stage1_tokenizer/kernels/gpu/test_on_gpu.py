"""Triton's programs on a real GPU, against float64 on the same device; and what measures them, rehearsed on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from stage1_tokenizer.kernels.gpu import group_norm as fused
from stage1_tokenizer.kernels.gpu import nearest
from stage1_tokenizer.layers.precision import float32_as
from stage1_tokenizer.quantizers.nearest import plain_search
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.kernels.gpu.compiling import need_triton

SHAPES = [(2, 128, 256, 256), (4, 512, 32, 32), (4, 512, 16, 16), (2, 96, 33, 17), (3, 64, 1000), (1, 32, 5, 20, 30)]


@pytest.mark.gpu
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_agree_with_float64(shape: tuple[int, ...], kind: torch.dtype, last: bool) -> None:
    torch.manual_seed(0)
    within = 1e-5 if kind == torch.float32 else 1e-2
    x_BCN = (torch.randn(shape, device="cuda") * 2 + 3).to(kind)
    x_BCN = x_BCN.movedim(1, -1).contiguous().movedim(-1, 1) if last else x_BCN
    given = [x_BCN, *(torch.randn(shape[1], device="cuda") for _ in range(2))]
    given = [h.requires_grad_() for h in given]
    dy_BCN = torch.randn(shape, device="cuda").to(kind)
    runs: list[list[Tensor]] = []
    for _ in range(2):
        y_BCN = fused.group_norm(given[0], 32, *given[1:], swish=True)
        runs.append([y_BCN, *torch.autograd.grad(y_BCN, given, dy_BCN)])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    exact = [h.detach().double().requires_grad_() for h in given]
    plain_BCN = fused.plain(exact[0], exact[1], exact[2], 32, 1e-6, True)
    for mine, other in zip(runs[0], [plain_BCN, *torch.autograd.grad(plain_BCN, exact, dy_BCN.double())], strict=True):
        assert float((mine - other).abs().max()) <= within * float(other.abs().max())


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4096, 16384, 8), (1000, 3000, 18), (777, 1024, 256), (3, 5, 1)])
def test_searches_agree_with_float64(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    count, size, dim = shape
    z_ND, code_KD = torch.randn(count, dim, device="cuda"), torch.randn(size, dim, device="cuda")
    mine_N = nearest.by_triton(z_ND, code_KD)
    exact_N2 = (code_KD.double().square().sum(1) / 2 - z_ND.double() @ code_KD.double().T).topk(2, largest=False)
    clear_N = exact_N2.values[:, 1] - exact_N2.values[:, 0] > 1e-5 * dim
    assert clear_N.float().mean() > 0.9
    assert torch.equal(mine_N[clear_N], exact_N2.indices[clear_N, 0])
    with float32_as("ieee"):
        assert torch.equal(mine_N[clear_N], plain_search(z_ND, code_KD)[clear_N])


def test_the_benchmark_can_be_rehearsed_and_needs_a_gpu_otherwise() -> None:
    need_triton()
    line = [sys.executable, "-m", "tests.benchmarks.gpu_kernels"]
    environment = tiny.environment() | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*line, "--rehearse"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) == 3 and all({"name", "torch_ms", "ms", "speedup"} <= row.keys() for row in rows)
    assert rows[-1]["same_codes"] == 1
