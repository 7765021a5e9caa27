"""The one-forward step beside the textbook step: time of both, on the same weights and batch, and whether they agree.

    python -m tests.benchmarks.stage1_step --size 128 --channels 64 --batch 2 --threads 1
    python -m tests.benchmarks.stage1_step --peer DIR    # 128 px with 64 channels, then 256 px with 128

With `--peer DIR`, also beside taming-transformers' step (two training_step calls a batch) and LlamaGen's, with the
adaptive weight in all of them and, `llamagen_fixed_weight`, in neither. All run in one process, in turns, so that
whatever else the machine does meets all alike. Times are CPU time, or, on a GPU, wall time with the GPU waited for.
Gradients are compared at the size measured, where rounding shows (LPIPS' maxima and the norms carry it far), and at 64
px in float64, where it doesn't. The last line is one JSON object; with several sizes, what differs is a list.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import nn

from stage1_tokenizer.config.training import AdversarialConfig, LossConfig, ModelConfig, QuantizerConfig
from stage1_tokenizer.discriminators import Discriminator
from stage1_tokenizer.losses.lpips import LPIPS, load_lpips
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer.training.textbook import one_forward, textbook_step


def options() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, nargs="+", help="pixels along each side; several for several rounds")
    parser.add_argument("--channels", type=int, nargs="+", help="the model's width at full resolution, for each size")
    parser.add_argument("--multipliers", type=int, nargs="+", default=[1, 1, 2, 2, 4], help="of the levels' widths")
    parser.add_argument("--codes", type=int, default=1024, help="size of the codebook")
    parser.add_argument("--batch", type=int, default=2, help="pictures a step")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each form, in turns")
    parser.add_argument("--peer", type=Path, help="folder with checkouts taming-transformers and LlamaGen")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.size = args.size or ([128, 256] if args.peer else [64])
    args.channels = args.channels or ([64, 128] if args.peer else [32])
    if len(args.size) != len(args.channels):
        parser.error(f"--size has {len(args.size)} numbers and --channels {len(args.channels)}: give as many")
    return args


def largest_difference(module: nn.Module, other: nn.Module) -> float:
    """Norm of the difference of all gradients over the norm of all gradients."""
    ours = torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])
    theirs = torch.cat([parameter.grad.flatten() for parameter in other.parameters() if parameter.grad is not None])
    return float((ours - theirs).norm() / theirs.norm())


def beside(args: argparse.Namespace, model: ModelConfig, size: int, lpips: LPIPS, which: str) -> dict[str, float]:
    """Our step beside a peer's on the same weights: both medians, the paired ratio, the gradients' differences."""
    pair = Pair(args, model, size, lpips, which)
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(-1, args.repeats):
        taken = pair.step()
        if turn >= 0:
            ours.append(taken[0])
            theirs.append(taken[1])
    exact = Pair(args, replace(model, channels=min(model.channels, 32)), 64, copy.deepcopy(lpips).double(), which)
    exact.step()
    return {
        f"ours_beside_{which}_s": round(statistics.median(ours), 4),
        f"{which}_s": round(statistics.median(theirs), 4),
        f"ratio_{which}": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 4),
        f"{which}_difference": pair.difference(),
        f"{which}_difference_float64": exact.difference(),
    }


class Pair:
    """Our step and a peer's, on the same weights and batch, in the precision of `lpips`."""

    def __init__(self, args: argparse.Namespace, model: ModelConfig, size: int, lpips: LPIPS, which: str):
        from tests.benchmarks.peer_steps import LlamaGen, Taming

        adaptive = which != "llamagen_fixed_weight"
        placement: Literal["legacy", "paper"] = "legacy" if which == "taming" else "paper"
        model = replace(model, quantizer=replace(model.quantizer, beta_placement=placement))
        config = LossConfig(adversarial=AdversarialConfig(adaptive=adaptive))
        torch.manual_seed(0)
        self.generator, self.discriminator = Tokenizer(model).train(), Discriminator(config.adversarial, 3)
        torch.nn.init.normal_(self.generator.quantizer.embedding.weight)  # no ties: rounding would choose other codes
        weight = config.adversarial.weight
        if which == "taming":
            self.peer: Taming | LlamaGen = Taming(args.peer / "taming-transformers", model, size, weight)
        else:
            self.peer = LlamaGen(args.peer / "LlamaGen", model, weight, adaptive)
        self.peer.take(self.generator, self.discriminator, lpips)
        kind = next(lpips.buffers()).dtype
        for part in (self.generator, self.discriminator, self.peer.model, self.peer.loss):
            part.to(args.device, kind)
        self.x = (torch.rand(args.batch, 3, size, size, dtype=kind) * 2 - 1).to(args.device)
        self.one_forward, self.device = one_forward(config, lpips), args.device

    def step(self) -> tuple[float, float]:
        """Both steps; the time of ours and of theirs."""
        for clear in (self.generator.zero_grad, self.discriminator.zero_grad, self.peer.clear):
            clear()
        ours = seconds(lambda: self.one_forward(self.generator, [self.discriminator], self.x, 0), self.device)
        return ours, seconds(lambda: self.peer.step(self.x), self.device)

    def difference(self) -> float:
        """Norm of the difference of all of the tokenizer's gradients over the norm of the peer's."""
        pairs = self.peer.gradients(self.generator)
        total = torch.cat([other.flatten() for _, other in pairs]).norm()
        return float(torch.cat([(one - other).flatten() for one, other in pairs]).norm() / total)


def seconds(step: Callable[[], object], device: str) -> float:
    """Time of one step."""
    if device == "cpu":
        began = time.process_time()
        step()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def at_size(args: argparse.Namespace, size: int, channels: int) -> dict[str, float]:
    """Time both forms, and the peers' where they are wished; print the table."""
    torch.manual_seed(0)
    quantizer = QuantizerConfig(codebook_size=args.codes)
    model = ModelConfig(channels=channels, channel_multipliers=args.multipliers, quantizer=quantizer)
    config = LossConfig(adversarial=AdversarialConfig())
    generator: Tokenizer = Tokenizer(model).train().to(args.device)
    discriminator = Discriminator(config.adversarial, 3).to(args.device)
    lpips = load_lpips().to(args.device)
    x = (torch.rand(args.batch, 3, size, size) * 2 - 1).to(args.device)
    plain_generator, plain_discriminator = copy.deepcopy(generator), copy.deepcopy(discriminator)
    step = one_forward(config, lpips)

    def ours() -> None:
        generator.zero_grad()
        discriminator.zero_grad()
        step(generator, [discriminator], x, 0)

    def textbook() -> None:
        plain_generator.zero_grad()
        plain_discriminator.zero_grad()
        textbook_step(config, plain_generator, [(plain_discriminator, 1.0)], lpips, x)

    times: dict[str, list[float]] = {"one_forward": [], "textbook": []}
    for turn in range(-1, args.repeats):  # the first turn warms up and is not counted
        for name, step in (("one_forward", ours), ("textbook", textbook)):
            taken = seconds(step, args.device)
            if turn >= 0:
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["one_forward"], times["textbook"], strict=True))
    errors = {
        "generator_difference": largest_difference(generator, plain_generator),
        "discriminator_difference": largest_difference(discriminator, plain_discriminator),
    }
    kind = "CPU time" if args.device == "cpu" else "wall time"
    print(f"stage-one step, {args.batch} pictures of {size} px, {channels} channels, {args.device}, {kind}")
    print(f"{'form':<14}{'median s':>10}{'least s':>10}{'most s':>10}")
    for name, values in times.items():
        print(f"{name:<14}{medians[name]:>10.3f}{min(values):>10.3f}{max(values):>10.3f}")
    print(f"ratio (paired median) {ratio:.3f}; relative difference of gradients " + str(errors))
    found = {f"{name}_s": round(value, 4) for name, value in medians.items()} | {"ratio": round(ratio, 4), **errors}
    if args.peer:
        for which in ("taming", "llamagen", "llamagen_fixed_weight"):
            peer = beside(args, model, size, lpips, which)
            found |= peer
            print(f"beside {which}: {peer}", flush=True)
    return found


def main() -> None:
    """Measure at each size and print the JSON line."""
    args = options()
    torch.set_num_threads(args.threads)
    rounds = [at_size(args, size, channels) for size, channels in zip(args.size, args.channels, strict=True)]
    found = rounds[0] if len(rounds) == 1 else {name: [one[name] for one in rounds] for name in rounds[0]}
    print(json.dumps({**found, **{name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()}}))


if __name__ == "__main__":
    main()
