"""Peak memory and time of the nearest-code quantizer beside vector-quantize-pytorch's, forward and backward.

    python -m tests.benchmarks.quantizer --vectors 8192 --codes 262144 --dims 8 256

Both run in one process, in turns, on the same latents and codebook, learned by gradient, straight-through. Peak memory
is what the process holds at most during forward and backward above what it held before (on a CPU, resident memory,
watched by a thread); where theirs does not fit, the largest number of vectors at which it does is taken. Time is CPU
time, or, on a GPU, wall time with the GPU waited for. The last line is one JSON object, with the worst case of each
ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import psutil
import torch
from torch import Tensor, nn

from stage1_tokenizer.config.training import QuantizerConfig
from stage1_tokenizer.quantizers import build_quantizer


def options() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--vectors", type=int, default=8192, help="N, latent vectors of a batch")
    parser.add_argument("--codes", type=int, default=262_144, help="K")
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 256], help="D, each measured")
    parser.add_argument("--repeats", type=int, default=1, help="timed turns of each")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


class Peak:
    """The most memory held within a `with` block, in bytes, above what was held when it began."""

    def __init__(self, device: str):
        self.device, self.bytes = device, 0

    def __enter__(self) -> Peak:
        gc.collect()
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what an earlier turn gave back would be used for nothing
        self.process = psutil.Process()
        self.before, self.most, self.done = self.process.memory_info().rss, 0, threading.Event()
        self.watch = threading.Thread(target=self._watch, daemon=True)
        self.watch.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.002):
            self.most = max(self.most, self.process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        if self.device != "cpu":
            self.bytes = torch.cuda.max_memory_allocated() - self.before
            return
        self.done.set()
        self.watch.join()
        self.bytes = max(self.most, self.process.memory_info().rss) - self.before


def most_vectors(vectors: int, codes: int, device: str) -> int:
    """How many vectors theirs can take in the memory that is free, a multiple of 256.

    It was seen to hold 6.1 float32 matrices of vectors × codes; 7 are allowed for, and 1 GB for the codebooks.
    """
    free = psutil.virtual_memory().available if device == "cpu" else torch.cuda.mem_get_info()[0]
    most = int(free - 10**9) // (7 * 4 * codes)
    return vectors if most >= vectors else max(most // 256 * 256, 1)


def measured(step: Callable[[Tensor], None], z: Tensor, device: str) -> tuple[int, float]:
    """Peak bytes and seconds of one forward and backward."""
    z = z.clone().requires_grad_()
    with Peak(device) as peak:
        clock = time.process_time if device == "cpu" else time.perf_counter
        began = clock()
        step(z)
        if device != "cpu":
            torch.cuda.synchronize()
        taken = clock() - began
    return peak.bytes, taken


def pair(codes: int, dim: int, device: str) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs with the same codebook."""
    from vector_quantize_pytorch import VectorQuantize

    ours = build_quantizer(QuantizerConfig(codebook_size=codes, code_dim=dim)).train()
    nn.init.normal_(ours.embedding.weight)  # type: ignore[arg-type]
    theirs = VectorQuantize(
        dim, codes, learnable_codebook=True, ema_update=False, rotation_trick=False, commitment_weight=0.25
    ).train()
    theirs._codebook.embed.data[0] = ours.embedding.weight.data  # type: ignore[union-attr]
    return ours.to(device), theirs.to(device)


def compare(vectors: int, codes: int, dim: int, args: argparse.Namespace) -> dict[str, Any]:
    """Both at one D: bytes, seconds and their ratios."""
    torch.manual_seed(0)
    ours, theirs = pair(codes, dim, args.device)
    z_DN = torch.randn(1, dim, vectors, device=args.device)
    found: dict[str, Tensor] = {}

    def our_step(z: Tensor) -> None:
        made = ours(z)
        (made.latents.square().mean() + sum(made.losses.values())).backward()
        found["ours"] = made.codes.flatten()
        ours.zero_grad()

    def their_step(z: Tensor) -> None:
        latents, idx, loss = theirs(z.transpose(1, 2))
        (latents.square().mean() + loss.sum()).backward()
        found["theirs"] = idx.flatten()
        theirs.zero_grad()

    # Few vectors first, so that libraries' buffers are there and threads have started.
    measured(our_step, z_DN[..., :16], args.device)
    measured(their_step, z_DN[..., :16], args.device)
    results: dict[str, list[tuple[int, float]]] = {"ours": [], "theirs": []}
    for _ in range(args.repeats):
        results["ours"].append(measured(our_step, z_DN, args.device))
        results["theirs"].append(measured(their_step, z_DN, args.device))
    same = float((found["ours"] == found["theirs"]).float().mean())
    memory = {name: max(peak for peak, _ in values) for name, values in results.items()}
    seconds = {name: statistics.median(taken for _, taken in values) for name, values in results.items()}
    return {
        "dim": dim,
        "vectors": vectors,
        "ours_bytes": memory["ours"],
        "theirs_bytes": memory["theirs"],
        "ours_s": round(seconds["ours"], 3),
        "theirs_s": round(seconds["theirs"], 3),
        "memory_ratio": round(memory["ours"] / memory["theirs"], 4),
        "time_ratio": round(seconds["ours"] / seconds["theirs"], 4),
        "same_codes": round(same, 6),
    }


def main() -> None:
    """Measure every D, print the table and the JSON line."""
    args = options()
    torch.set_num_threads(args.threads)
    vectors = most_vectors(args.vectors, args.codes, args.device)
    cases = [compare(vectors, args.codes, dim, args) for dim in args.dims]
    print(f"quantizer, {vectors} vectors, {args.codes} codes, forward and backward, {args.device}")
    print(f"{'D':>5}{'ours MB':>10}{'theirs MB':>11}{'ratio':>9}{'ours s':>9}{'theirs s':>10}{'ratio':>8}")
    for case in cases:
        print(
            f"{case['dim']:>5}{case['ours_bytes'] / 1e6:>10.0f}{case['theirs_bytes'] / 1e6:>11.0f}"
            f"{case['memory_ratio']:>9.4f}{case['ours_s']:>9.2f}{case['theirs_s']:>10.2f}{case['time_ratio']:>8.3f}"
        )
    worst = {key: max(case[key] for case in cases) for key in ("memory_ratio", "time_ratio")}
    print(json.dumps({**worst, "cases": cases, **vars(args), "vectors": vectors}))


if __name__ == "__main__":
    main()
