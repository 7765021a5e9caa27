"""Section 3: the kernels beside torch's own and beside what the card's bandwidth and arithmetic allow."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import torch

from stage1_tokenizer.layers.precision import float32_as
from stage1_tokenizer.quantizers.nearest import nearest_code
from tests.gpu.sections.bench import Bench
from tests.gpu.sections.timing import best

SHAPES = ((4096, 16384, 8), (1536, 262144, 8), (65536, 16384, 256))
"""N latents, K codes, D dimensions: imagenet256 at 16 pictures, a very large codebook, a whole encoding."""
TINY = ((64, 32, 8),)


def kernels(bench: Bench) -> None:
    """Nearest code; then what tests/benchmarks/gpu_kernels.py measures."""
    for shape in TINY if bench.rehearse else SHAPES:
        bench.part("nearest code", "×".join(map(str, shape)), partial(search, bench, shape), seconds=2)
    bench.part("kernels", "all", partial(measured, bench), seconds=5)


def search(bench: Bench, shape: tuple[int, int, int]) -> None:
    """The search as a quantizer calls it, beside the product N×K alone."""
    rows, codes, width = shape
    z_ND, code_KD = torch.randn(rows, width, device=bench.device), torch.randn(codes, width, device=bench.device)
    taken = best(lambda: nearest_code(z_ND, code_KD), bench.device, 3)
    with float32_as("ieee"):
        product = best(lambda: z_ND @ code_KD.T, bench.device, 3)
    bench.row("nearest code", "×".join(map(str, shape)), ms=taken * 1e3, product_ms=product * 1e3)


def measured(bench: Bench) -> None:
    """Each kernel of stage1_tokenizer/kernels/gpu beside its plain form."""
    if importlib.util.find_spec("tests.benchmarks.gpu_kernels") is None:
        bench.row("kernels", "all", note="tests/benchmarks/gpu_kernels.py isn't there")
        return
    from tests.benchmarks import gpu_kernels

    rows: Any = gpu_kernels.measure(bench.device, None, bench.left())
    for row in rows:
        bench.row("kernels", str(row.pop("name")), **row)
