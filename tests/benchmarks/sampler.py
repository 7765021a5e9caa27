"""Tokens per second of our sampler beside `transformers.generate` (and LlamaGen's), on the same weights.

    python -m tests.benchmarks.sampler [--peer DIR with a checkout LlamaGen/] [--batches 8 32] [--threads 2]

`generate` runs with its static cache, and with guidance by its own processor. All run in one process, in turns, so that
whatever else the machine does meets all alike; each figure is the best of the turns, in CPU time (divided by the
threads) or, on a GPU, wall time. The last line is one JSON object; its speed-ups are the least over the batch sizes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.autoregressive import AutoregressivePrior

GUIDANCE = 3.0


def options() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peer", type=Path, help="folder that holds a checkout LlamaGen/")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--side", type=int, default=16, help="codes along each side of a picture")
    parser.add_argument("--codes", type=int, default=1024, help="size of the codebook")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="of torch, on a CPU")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


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


def seconds(call: Callable[[], Tensor], args: argparse.Namespace) -> tuple[float, Tensor]:
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
def measure(prior: AutoregressivePrior, batch: int, args: argparse.Namespace) -> tuple[dict[str, float], bool]:
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
            took, last[name] = seconds(call, args)
            best[name] = min(best[name], took)
            print(f"batch {batch}, turn {turn}, {name}: {took:.2f} s", file=sys.stderr, flush=True)
    tokens = batch * prior.source.positions
    return {name: tokens / took for name, took in best.items()}, torch.equal(
        last["ours, greedy"], last["generate, greedy"]
    )


def main() -> None:
    """Print the table and the JSON line."""
    args = options()
    torch.set_num_threads(args.threads)
    prior = build(args)
    millions = sum(weight.numel() for weight in prior.parameters()) / 1e6
    rates: dict[int, dict[str, float]] = {}
    identical = True
    for batch in args.batches:
        rates[batch], same = measure(prior, batch, args)
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
