"""GPU kernels beside torch's plain forms and beside what the card's bandwidth and arithmetic allow at best.

    python -m tests.benchmarks.gpu_kernels [--seconds 60]
    python -m tests.benchmarks.gpu_kernels --rehearse   # on a CPU, tiny, in Triton's interpreter: times mean nothing

Group norm with swish: forward and backward, in bf16 as under autocast, channels-last, for norms of imagenet256 at 16
pictures. `torch_ms` is `Norm` under autocast, which is float32 there. `floor_ms`: x twice and y once (forward), x and
dy twice and dx once (backward), at the bandwidth of a copy on this card. Nearest code: float32; `torch_ms` is the plain
search, `floor_ms` 2·N·K·D operations at the rate of a large float32 product. Medians by events on the device, in turns.
A GPU is needed, else exit code 2. The last line is one JSON list.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

if __name__ == "__main__" and "--rehearse" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import torch
from torch import Tensor

from stage1_tokenizer.kernels.gpu import group_norm as fused
from stage1_tokenizer.kernels.gpu import nearest
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.layers.precision import float32_as
from stage1_tokenizer.quantizers.nearest import plain_search

NORMS = ((16, 128, 256, 256), (16, 256, 64, 64), (16, 512, 32, 32), (16, 512, 16, 16))
"""Pictures, channels, height and width."""
SEARCHES = ((4096, 16384, 8), (1536, 262144, 18), (4096, 1024, 256))
"""Latents, codes and their dimension."""
TINY = ((2, 32, 8, 8), (64, 96, 8))

Shape = tuple[int, ...]
Row = dict[str, Any]


def measure(device: str, shapes: Sequence[Shape] | None, seconds: float) -> list[Row]:
    """A row for each pass of each shape, as many as fit the time: four numbers are a norm's, three a search's.

    On a CPU, where kernels run in the interpreter only, other rows than those of torch's forms are left empty.
    """
    end = time.monotonic() + seconds
    on_gpu = torch.device(device).type == "cuda"
    shapes = shapes or ((*NORMS, *SEARCHES) if on_gpu else TINY)
    ours = on_gpu or os.environ.get("TRITON_INTERPRET") == "1"
    bandwidth, rate = (copied(device), multiplied(device)) if on_gpu else (float("nan"), float("nan"))
    rows: list[Row] = []
    for shape in shapes:
        if time.monotonic() < end:
            rows += norm(device, shape, ours, bandwidth) if len(shape) == 4 else [search(device, shape, ours, rate)]
    return rows


def norm(device: str, shape: Shape, ours: bool, bandwidth: float) -> list[Row]:
    """Forward and backward of group norm and swish."""
    x_BCHW = torch.randn(shape, device=device, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    x_BCHW.requires_grad_()
    layer = Norm(shape[1]).to(device)
    given = [x_BCHW, layer.weight, layer.bias]

    def plain() -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            return layer(x_BCHW)

    def operator() -> Tensor:
        return fused.group_norm(x_BCHW, layer.num_groups, layer.weight, layer.bias, layer.eps, swish=True)

    forward = {"torch": plain} | ({"ours": operator} if ours else {})
    backward = {name: gradient(call(), given) for name, call in forward.items()}
    whole = fused._plan(x_BCHW, layer.num_groups).whole
    passes = {"forward": 2 if whole else 3, "backward": 3 if whole else 5}
    size = x_BCHW.numel() * x_BCHW.element_size()
    rows = []
    for name, calls in (("forward", forward), ("backward", backward)):
        floor = passes[name] * size / bandwidth
        rows.append(row(f"group norm {'×'.join(map(str, shape))} {name}", in_turns(calls, device), floor))
    return rows


def gradient(y_BCHW: Tensor, given: Sequence[Tensor]) -> Callable[[], Any]:
    dy_BCHW = torch.randn_like(y_BCHW)
    return lambda: torch.autograd.grad(y_BCHW, given, dy_BCHW, retain_graph=True)


def search(device: str, shape: Shape, ours: bool, rate: float) -> Row:
    """The search for nearest codes."""
    count, size, dim = shape
    z_ND, code_KD = torch.randn(count, dim, device=device), torch.randn(size, dim, device=device)

    def plain() -> Tensor:
        with float32_as("ieee"):
            return plain_search(z_ND, code_KD)

    calls = {"torch": plain} | ({"ours": lambda: nearest.by_triton(z_ND, code_KD)} if ours else {})
    found = row(f"nearest code {'×'.join(map(str, shape))}", in_turns(calls, device), 2 * count * size * dim / rate)
    if ours:
        found["same_codes"] = float((calls["ours"]() == plain()).float().mean())
    return found


def row(name: str, taken: dict[str, float], floor: float) -> Row:
    """Milliseconds; and how many times as fast as torch's form, and as slow as the floor, the kernel is."""
    found: Row = {"name": name, "torch_ms": taken["torch"] * 1e3, "floor_ms": floor * 1e3}
    if "ours" in taken:
        found |= {
            "ms": taken["ours"] * 1e3,
            "speedup": taken["torch"] / taken["ours"],
            "of_floor": taken["ours"] / floor,
        }
    return {
        key: round(value, 4) if isinstance(value, float) else value for key, value in found.items() if value == value
    }


def in_turns(calls: dict[str, Callable[[], Any]], device: str) -> dict[str, float]:
    """Median seconds of each call, after two that warm up and compile."""
    on_gpu = torch.device(device).type == "cuda"
    for call in calls.values():
        for _ in range(2 if on_gpu else 1):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(20 if on_gpu else 1):
        for name, call in calls.items():
            taken[name] += timed(call, on_gpu)
    return {name: statistics.median(each) for name, each in taken.items()}


def timed(call: Callable[[], Any], on_gpu: bool) -> Iterator[float]:
    """One call's seconds; on a GPU between events, behind work that lets the launches get ahead."""
    if not on_gpu:
        began = time.perf_counter()
        call()
        yield time.perf_counter() - began
        return
    torch.cuda._sleep(2_000_000)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()
    last.record()
    last.synchronize()
    yield first.elapsed_time(last) / 1e3


def copied(device: str) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.empty(1 << 28, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 2 * source.numel() * 2 / in_turns({"copy": lambda: target.copy_(source)}, device)["copy"]


def multiplied(device: str) -> float:
    """Operations a second of a float32 product."""
    a, b = (torch.randn(8192, 8192, device=device) for _ in range(2))
    with float32_as("ieee"):
        return 2 * 8192**3 / in_turns({"product": lambda: a @ b}, device)["product"]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="start no further shape after this time")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on a CPU, in Triton's interpreter")
    options = parser.parse_args(words)
    if not options.rehearse and not torch.cuda.is_available():
        print("no GPU here: kernels can only be rehearsed, with --rehearse", file=sys.stderr)
        return 2
    rows = measure("cpu" if options.rehearse else "cuda", None, options.seconds)
    print("rehearsed on a CPU" if options.rehearse else torch.cuda.get_device_name(), torch.__version__)
    for each in rows:
        print("  ".join(f"{key} {value}" for key, value in each.items()))
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
