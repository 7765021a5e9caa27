"""Section 2: the stage-one step of imagenet256, in several forms, beside taming-transformers' and LlamaGen's.

All forms of a round are built first, then take turns in one process. Pictures a second, the share of the card's peak
(MFU), and memory beside the figures on paper.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from launch.command.cli import parse
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.training.cuda_graph import WARM_UP
from tests.gpu.sections.bench import Bench
from tests.gpu.sections.machine import PRODUCT, ceiling, nominal
from tests.gpu.sections.parts import StageOne
from tests.gpu.sections.peers import FOLDERS, PeerStep, gathered_peers
from tests.gpu.sections.timing import Taken, in_turns

RECIPE = ["--config", "launch/recipes/imagenet256/tokenizer.yaml", "--loss.adversarial.start=0"]
TINY = [
    "--model.channels=32",
    "--model.channel_multipliers=[1, 2]",
    "--model.res_blocks=1",
    "--model.z_channels=8",
    "--model.quantizer.codebook_size=64",
    "--data.transform.size=32",
]
"""What a rehearsal changes: the size of the networks and of the pictures."""

TFLOP = 1.337
"""Of a step, for each picture of 256 pixels (encoder 138, decoder 253, discriminator 6.3, LPIPS 40 GFLOP forward)."""

PAPER_GIB = {("plain", 16): 24.9, ("kernels", 16): 12.6}
"""Peak memory as computed without a GPU (tests/benchmarks/on_paper.py), by form and pictures."""


def form(kernels: str = "plain", layout: bool = False, compiled: bool = False, graph: bool = False) -> list[str]:
    """The options of a form of our step."""
    words = [f"--run.kernels={kernels}", f"--channels_last={layout}".lower(), f"--compile={compiled}".lower()]
    return [*words, "--cuda_graph=true"] if graph else words


FORMS = {
    "plain": form(),
    "channels_last": form(layout=True),
    "kernels": form("auto", layout=True),
    "compiled": form("auto", layout=True, compiled=True),
    "graph": form("auto", layout=True, graph=True),
}
"""Ours."""


@dataclass(frozen=True)
class Round:
    """Forms that take turns."""

    pictures: int
    ours: tuple[str, ...]
    theirs: tuple[str, ...] = ()
    """taming, llamagen, or one of them with +compiled."""
    precision: str = "bf16"
    tf32: str = "torch"
    seconds: float = 20
    """What it needs, at least."""

    @property
    def name(self) -> str:
        """In the table."""
        ways = {"torch": "TF32 convolutions", "never": "IEEE", "always": "TF32"}
        how = "bf16" if self.precision == "bf16" else f"fp32, {ways[self.tf32]}"
        return f"step, {self.pictures} pictures, {how}"


ROUNDS = (
    Round(16, ("plain", "channels_last", "kernels"), ("taming", "llamagen")),
    Round(16, ("kernels", "compiled", "graph"), ("llamagen+compiled",), seconds=25),
    Round(32, ("kernels", "compiled"), ("taming", "llamagen"), seconds=25),
    Round(16, ("compiled",), ("taming+compiled",), seconds=30),
    Round(16, ("kernels",), ("taming", "llamagen"), "fp32", "torch", seconds=15),
    Round(16, ("kernels",), (), "fp32", "never", seconds=10),
)
"""In the order that loses least. A form that is in two rounds is built again: memory is then its own."""

SHORT = (ROUNDS[1], ROUNDS[-1])
"""What a rehearsal without peers runs: others are the same forms again, or, as the plain one that is counted, less."""


def steps(bench: Bench) -> None:
    """All rounds, as far as there is time."""
    torch._dynamo.config.automatic_dynamic_shapes = False  # another batch size is another graph, as fast as the first
    rounds = ROUNDS
    if gathered_peers(bench) is None:
        bench.row("peers", "taming, LlamaGen", note="not gathered")
        rounds = SHORT if bench.rehearse else ROUNDS
    for one in rounds:
        bench.part(one.name, "all", partial(turns_of, bench, one), seconds=one.seconds)
        gc.collect()
        if bench.device == "cuda":
            torch.cuda.empty_cache()
        torch._dynamo.reset()
    bench.part("operations", "a picture", partial(counted, bench), seconds=10)


def words_of(bench: Bench, one: Round, name: str) -> list[str]:
    """The options of one of our forms in a round."""
    return [
        *RECIPE,
        *(TINY if bench.rehearse else []),
        f"--run.precision={one.precision}",
        f"--run.tf32={one.tf32}",
    ] + (FORMS[name])


def config_of(bench: Bench, one: Round) -> TokenizerTrainConfig:
    """The configuration of a round, as its first form has it."""
    words = [*words_of(bench, one, one.ours[0]), "--run.folder=none", f"--data.batch_size={pictures_of(bench, one)}"]
    return parse(TokenizerTrainConfig, words, prog="evidence")


def pictures_of(bench: Bench, one: Round) -> int:
    """The batch of a round."""
    return one.pictures // 8 if bench.rehearse else one.pictures


def forms_of(bench: Bench, one: Round, folder: Path) -> dict[str, Callable[[], Any]]:
    """What builds each form of a round that can be had: theirs only where they are gathered."""
    forms: dict[str, Callable[[], Any]] = {
        name: partial(StageOne, words_of(bench, one, name), folder / name, bench.device, pictures_of(bench, one))
        for name in one.ours
    }
    peers = gathered_peers(bench)
    for name in one.theirs if peers else ():
        which, _, compiled = name.partition("+")
        settings = {"precision": one.precision, "compiled": bool(compiled)}
        forms[name] = partial(PeerStep, which, peers, config_of(bench, one), bench.device, **settings)
    return forms


def turns_of(bench: Bench, one: Round) -> None:
    """One round: measure, then write a row for each form, and the ratios."""
    with bench.folder() as folder:
        counts = (
            {"turns": 1, "steps": 1, "warm": WARM_UP + 1}
            if bench.rehearse
            else {"turns": 5, "steps": 2, "warm": WARM_UP + 2}
        )
        taken = in_turns(forms_of(bench, one, folder), bench.device, **counts)
    for name, values in taken.items():
        bench.row(one.name, name, **figures(bench, one, name, values))
    ratios(bench, one, taken)


def counted(bench: Bench) -> None:
    """TFLOP of a step for each picture, counted while it runs: what the figure on paper is held to."""
    one = ROUNDS[0]
    with bench.folder() as folder:
        step = forms_of(bench, one, folder)["plain"]()
        with Operations() as counter:
            step()
    tflop = counter.flops / pictures_of(bench, one) / 1e12
    bench.row("operations", "a picture", tflop=tflop, on_paper=TFLOP)


class Operations(TorchDispatchMode):
    """Counts floating-point operations. FlopCounterMode's hooks don't bear torch.autograd.grad."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.flops += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


def figures(bench: Bench, one: Round, name: str, taken: Taken) -> dict[str, Any]:
    """A row's numbers."""
    if taken.error or not taken.seconds:
        return {"error": taken.error or "no turn", "warming_s": taken.warming_s}
    rate = pictures_of(bench, one) / taken.median
    shares = used(bench, TFLOP * rate) if one.precision == "bf16" and not bench.rehearse else {}
    paper = PAPER_GIB.get((name, one.pictures))
    memory = {"peak_gib": taken.peak_gib, **({"gib_on_paper": paper} if paper else {})}
    return {"ms": taken.median * 1e3, "pictures_per_s": rate, **shares, **memory, "warming_s": taken.warming_s}


def used(bench: Bench, tflops: float) -> dict[str, float]:
    """TFLOP a second as shares of the card's peak, as it was measured and as its data sheet has it: MFU."""
    peaks = {"mfu_measured": ceiling(bench, PRODUCT), "mfu_nominal": nominal(bench, "flops")}
    return {key: round(tflops / peak, 4) for key, peak in peaks.items() if peak}


def ratios(bench: Bench, one: Round, taken: dict[str, Taken]) -> None:
    """How many times as fast the fastest of ours is as each of theirs."""
    ours = {name: values for name, values in taken.items() if name.partition("+")[0] not in FOLDERS and values.seconds}
    if not ours:
        return
    fastest = min(ours, key=lambda name: ours[name].median)
    for name, values in taken.items():
        if name.partition("+")[0] in FOLDERS and values.seconds:
            bench.row(f"times as fast, {one.name}", name, ours=fastest, times=values.median / ours[fastest].median)
