"""Tokens per second of our sampler beside `transformers.generate` (and LlamaGen's), on the same weights.

    python -m tests.benchmarks.sampler [--peer DIR with a checkout LlamaGen/] [--batches 8 32] [--threads 2]

`generate` runs with its static cache, and with guidance by its own processor. All run in one process, in turns, so that
whatever else the machine does meets all alike; each figure is the best of the turns, in CPU time (divided by the
threads) or, on a GPU, wall time. The last line is one JSON object; its speed-ups are the least over the batch sizes.

On a GPU, `measure` compares LlamaGen-B's shape in bf16 at batches 1, 8 and 64, without guidance and with 3: our loop
without graphs, with them, and with compiled ones, `generate` with its compiled step, and LlamaGen's loop.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation import autoregressive
from stage2_prior.priors.autoregressive import AutoregressivePrior

GUIDANCE = 3.0

SHAPE = (
    ("side", 16, 16, "codes along each side of a picture"),
    ("codes", 1024, 16384, "size of the codebook"),
    ("layers", 6, 12, "of the transformer"),
    ("width", 512, 768, "of the transformer"),
    ("heads", 8, 12, "of the transformer"),
)
"""Settings of the prior with their values on a CPU and on a GPU, where they are LlamaGen-B's."""

TURNS = 3
"""Of `measure`: timed runs of each, of which the best counts."""


def options() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peer", type=Path, help="folder that holds a checkout LlamaGen/")
    parser.add_argument("--batches", type=int, nargs="+", help="8 32; on a GPU 1 8 64")
    for name, on_cpu, on_gpu, what in SHAPE:
        parser.add_argument(f"--{name}", type=int, help=f"{what}: {on_cpu}; on a GPU {on_gpu}")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on a CPU")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--seconds", type=float, default=600, help="on a GPU: begin nothing after them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    on_cpu = args.device == "cpu"
    args.batches = args.batches or ([8, 32] if on_cpu else [1, 8, 64])
    for name, small, large, _ in SHAPE:
        setattr(args, name, getattr(args, name) or (small if on_cpu else large))
    return args


def build(args: argparse.Namespace) -> AutoregressivePrior:
    """A prior with random weights, far enough from uniform that greedy codes mean something."""
    torch.manual_seed(0)
    source = CodeSource("0" * 64, args.codes, (args.side, args.side), {})
    vocabulary = Vocabulary(args.codes, tuple(map(str, range(10))))
    config = PriorModelConfig(layers=args.layers, width=args.width, heads=args.heads)
    prior = AutoregressivePrior.build(config, vocabulary, source).eval().to(args.device)
    with torch.no_grad():
        for weight in prior.parameters():
            if weight.ndim == 2:
                weight.mul_(3.0)
    return prior


def contestants(
    prior: AutoregressivePrior, token_B: Tensor, args: argparse.Namespace
) -> dict[str, Callable[[], Tensor]]:
    """What is timed: each call gives code_BN."""
    uniform_BN = torch.rand(len(token_B), prior.source.positions, device=args.device)
    null_B1 = torch.full_like(token_B, prior.vocabulary.null)[:, None]

    def ours(guidance: float, temperature: float = 1.0) -> Callable[[], Tensor]:
        return lambda: prior.sample(token_B, uniform_BN, Drawing(guidance=guidance, temperature=temperature))

    def generate(**settings: object) -> Callable[[], Tensor]:
        arguments = {"cache_implementation": "static", "disable_compile": True, **settings}
        return lambda: prior.lm.generate(token_B[:, None], **arguments)[:, 1:]

    drawn = {"do_sample": True, "top_k": 0}
    guided = {"guidance_scale": GUIDANCE, "negative_prompt_ids": null_B1}
    return {
        "ours": ours(1.0),
        "generate": generate(**drawn),
        "ours, guided": ours(GUIDANCE),
        "generate, guided": generate(**drawn, **guided),
        "ours, greedy": ours(1.0, 0.0),
        "generate, greedy": generate(do_sample=False),
    }


def _seconds(call: Callable[[], Tensor], args: argparse.Namespace) -> tuple[float, Tensor]:
    """Time of one call, and what it gave."""
    if args.device == "cpu":
        began = time.process_time()
        result = call()
        return (time.process_time() - began) / args.threads, result
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = call()
    torch.cuda.synchronize()
    return time.perf_counter() - began, result


@torch.inference_mode()
def compare(prior: AutoregressivePrior, batch: int, args: argparse.Namespace) -> tuple[dict[str, float], bool]:
    """Tokens per second of each contestant, and whether the greedy codes are identical."""
    token_B = prior.vocabulary.class_tokens(torch.arange(batch, device=args.device) % 10)
    calls = contestants(prior, token_B, args)
    if args.peer:
        from tests.benchmarks.llamagen import llamagen_sampler

        calls |= llamagen_sampler(prior, token_B, args.peer, GUIDANCE)
    best = dict.fromkeys(calls, float("inf"))
    last: dict[str, Tensor] = {}
    for turn in range(args.repeats):  # the least of the turns counts, so that the first may warm up
        for name, call in calls.items():
            if turn and "greedy" in name:
                continue
            took, last[name] = _seconds(call, args)
            best[name] = min(best[name], took)
            print(f"batch {batch}, turn {turn}, {name}: {took:.2f} s", file=sys.stderr, flush=True)
    tokens = batch * prior.source.positions
    return {name: tokens / took for name, took in best.items()}, torch.equal(
        last["ours, greedy"], last["generate, greedy"]
    )


@torch.no_grad()
def measure(
    device: str,
    batches: Sequence[int],
    guidances: Sequence[float],
    seconds: float,
    shape: Mapping[str, int] | None = None,
    peer: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> list[dict[str, Any]]:
    """Tokens per second of our samplers and others, on one prior with random weights.

    `shape` changes SHAPE's values for GPUs. Nothing is begun once `seconds` are over. A result has `name`, `batch` and
    `guidance`; `tokens_per_second`; `first`, the seconds of the first run, captures and compilation included; for ours
    `same`, the share of codes that equal those of our loop without graphs; or its `error`. On a CPU nothing is compiled
    and steps run without graphs: a rehearsal.
    """
    until, results = time.monotonic() + seconds, []
    settings = {name: value for name, _, value, _ in SHAPE} | dict(shape or {})
    args = argparse.Namespace(device=device, threads=1, **settings)
    prior = build(args).to(dtype)
    for batch, guidance in itertools.product(batches, guidances):
        found: dict[str, dict[str, Any]] = {}
        calls: dict[str, Callable[[], Tensor]] = {}
        first: dict[str, Tensor] = {}
        for name, make in _contestants(prior, batch, guidance, peer, args).items():
            found[name] = {"name": name, "batch": batch, "guidance": guidance}
            if time.monotonic() >= until:
                found[name]["error"] = "no time was left"
                continue
            try:
                call = make()
                took, first[name] = _seconds(call, args)
            except Exception as error:  # of any library; the others go on
                found[name]["error"] = f"{type(error).__name__}: {error}"[:300]
                continue
            calls[name] = call
            found[name]["first"] = round(took, 3)
            if name.startswith("ours") and "ours" in first:
                found[name]["same"] = round(float((first[name] == first["ours"]).float().mean()), 4)
        for name, call in [*calls.items()] * TURNS:
            if time.monotonic() < until:
                rate = batch * prior.source.positions / _seconds(call, args)[0]
                found[name]["tokens_per_second"] = max(found[name].get("tokens_per_second", 0.0), round(rate, 1))
        results += found.values()
        for result in found.values():
            print(json.dumps(result), file=sys.stderr, flush=True)
    return results


def _contestants(
    prior: AutoregressivePrior, batch: int, guidance: float, peer: Path | None, args: argparse.Namespace
) -> dict[str, Callable[[], Callable[[], Tensor]]]:
    """What `measure` compares: what makes each call."""
    token_B = prior.vocabulary.class_tokens(torch.arange(batch, device=args.device) % 10)
    uniform_BN = torch.rand(batch, prior.source.positions, device=args.device)
    on_cpu = args.device == "cpu"

    def ours(*, graphs: bool, compiled: bool = False) -> Callable[[], Tensor]:
        own = copy.copy(prior)  # the same weights, laid out for itself
        own._laid_out, own.compiled_steps = None, compiled and not on_cpu
        capture = autoregressive.capture_for if not on_cpu else lambda _: lambda step: step

        def call() -> Tensor:
            with mock.patch.object(autoregressive, "capture_for", capture if graphs else lambda _: None):
                return own.sample(token_B, uniform_BN, Drawing(guidance=guidance))

        return call

    def generate() -> Callable[[], Tensor]:
        arguments: dict[str, Any] = {"cache_implementation": "static", "do_sample": True, "top_k": 0}
        if on_cpu:
            arguments["disable_compile"] = True
        if guidance != 1:
            null_B1 = torch.full_like(token_B, prior.vocabulary.null)[:, None]
            arguments |= {"guidance_scale": guidance, "negative_prompt_ids": null_B1}
        return lambda: prior.lm.generate(token_B[:, None], **arguments)[:, 1:]

    def llamagen() -> Callable[[], Tensor]:
        from tests.benchmarks.llamagen import llamagen_sampler

        assert peer is not None
        return llamagen_sampler(prior, token_B, peer, guidance)["llamagen" if guidance == 1 else "llamagen, guided"]

    return {
        "ours": lambda: ours(graphs=False),
        "ours, graphs": lambda: ours(graphs=True),
        "ours, compiled graphs": lambda: ours(graphs=True, compiled=True),
        **({"llamagen": llamagen} if peer else {}),
        "generate, compiled": generate,
    }


def on_a_gpu(args: argparse.Namespace) -> None:
    """Print `measure`'s table and the JSON line."""
    shape = {name: getattr(args, name) for name, *_ in SHAPE}
    found = measure(args.device, args.batches, [1.0, GUIDANCE], args.seconds, shape, args.peer)
    print(f"{torch.cuda.get_device_name(args.device)}, bf16, tokens per second")
    for result in found:
        rate = result.get("tokens_per_second", result.get("error", "no time was left"))
        print(f"{result['name']:24} batch {result['batch']:3}, guidance {result['guidance']:g}: {rate}")
    print(json.dumps({"device": torch.cuda.get_device_name(args.device), "shape": shape, "results": found}))


def main() -> None:
    """Print the table and the JSON line."""
    args = options()
    if args.device != "cpu":
        return on_a_gpu(args)
    torch.set_num_threads(args.threads)
    prior = build(args)
    millions = sum(weight.numel() for weight in prior.parameters()) / 1e6
    rates: dict[int, dict[str, float]] = {}
    identical = True
    for batch in args.batches:
        rates[batch], same = compare(prior, batch, args)
        identical = identical and same
    print(
        f"{millions:.1f} M parameters, {prior.source.positions} codes a picture, {args.device}, {args.threads} threads"
    )
    print("tokens per second".ljust(24) + "".join(f"batch {batch}".rjust(12) for batch in args.batches))
    for name in rates[args.batches[0]]:
        print(name.ljust(24) + "".join(f"{rates[batch][name]:12.0f}" for batch in args.batches))

    def speedup(one: str, other: str) -> float:
        return round(min(rate[one] / rate[other] for rate in rates.values()), 3)

    result = {
        "speedup_generate": speedup("ours", "generate"),
        "speedup_generate_guided": speedup("ours, guided", "generate, guided"),
        "greedy_identical": identical,
        "tokens_per_second": {
            str(batch): {name: round(rate) for name, rate in of.items()} for batch, of in rates.items()
        },
        "parameters": round(millions * 1e6),
        "device": args.device,
        "threads": args.threads,
    }
    if args.peer:
        result["speedup_llamagen"] = speedup("ours", "llamagen")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
