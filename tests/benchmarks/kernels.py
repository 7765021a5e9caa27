"""What each CPU kernel brings to stage one's step: all of them, none, and each one left out.

    python -m tests.benchmarks.kernels --size 128 --channels 64
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python -m tests.benchmarks.kernels

All forms take turns in one process on the same weights and batch, so that whatever else the machine does meets all of
them alike. Times are CPU time. `without` is the median, over the turns, of a form's time over that of all kernels: 1.10
says that the step takes 10 % longer without this kernel. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor, nn

from stage1_tokenizer.config.training import AdversarialConfig, LossConfig, ModelConfig, QuantizerConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.kernels import install as installing
from stage1_tokenizer.layers.frozen import FrozenConv2d
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.losses.lpips import load_lpips
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer.training.textbook import one_forward

LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "convolution": (nn.Conv2d,),
    "group_norm": (Norm,),
    "frozen": (FrozenConv2d,),
    "layout alone": (nn.Conv2d, Norm, FrozenConv2d),
    "none": (nn.Conv2d, Norm, FrozenConv2d),
}
"""Layers that stay torch's in a form."""

FORMS = ("all", "none", "layout alone", "channels_last", "convolution", "group_norm", "frozen")
"""All kernels; none; channels-last layout alone; then each kernel left out."""


def options() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=64, help="pixels along each side")
    parser.add_argument("--channels", type=int, default=32, help="the model's width at full resolution")
    parser.add_argument("--batch", type=int, default=2, help="pictures a step")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each form")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, help="which, `all` always first")
    return parser.parse_args()


class Form:
    """One step's networks with some of the kernels."""

    def __init__(self, name: str, networks: list[nn.Module]):
        self.name = name
        self.generator, self.discriminator, lpips = networks = copy.deepcopy(networks)
        kernels = {layer: fast for layer, fast in installing.CPU.items() if layer not in LAYERS.get(name, ())}
        wide = 1 << 30 if name in ("none", "channels_last") else installing.WIDE
        with patch.object(installing, "CPU", kernels), patch.object(installing, "WIDE", wide):
            for network in networks:
                installing.install(network, "cpu")
        self.step = one_forward(LossConfig(adversarial=AdversarialConfig()), lpips)  # type: ignore[arg-type]

    def seconds(self, x_BCHW: Tensor) -> float:
        """CPU time of one step."""
        for network in (self.generator, self.discriminator):
            network.zero_grad()
        began = time.process_time()
        self.step(self.generator, [self.discriminator], x_BCHW, 0)
        return time.process_time() - began


def main() -> None:
    """Measure, print the table and the JSON line."""
    args = options()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = ModelConfig(channels=args.channels, quantizer=QuantizerConfig())
    networks = [Tokenizer(model).train(), build_discriminator(AdversarialConfig(), 3), load_lpips()]
    forms = [Form(name, networks) for name in dict.fromkeys(["all", *args.forms])]
    x_BCHW = torch.rand(args.batch, 3, args.size, args.size) * 2 - 1
    turns = [[form.seconds(x_BCHW) for form in forms] for _ in range(args.repeats + 1)][1:]  # the first warms up
    taken = {form.name: [turn[number] for turn in turns] for number, form in enumerate(forms)}
    print(
        f"{args.batch} pictures of {args.size} px, {args.channels} channels, {torch.backends.cpu.get_cpu_capability()}"
    )
    print(f"{'form':<18}{'median s':>10}{'without':>10}")
    without = {}
    for name, values in taken.items():
        without[name] = statistics.median(a / b for a, b in zip(values, taken["all"], strict=True))
        print(f"{name:<18}{statistics.median(values):>10.3f}{without[name]:>10.3f}")
    seconds = {name: round(statistics.median(values), 4) for name, values in taken.items()}
    print(json.dumps({"seconds": seconds, "without": {k: round(v, 4) for k, v in without.items()}, **vars(args)}))


if __name__ == "__main__":
    main()
