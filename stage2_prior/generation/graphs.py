"""Steps that draw codes as CUDA graphs: one launch for each step instead of hundreds.

A step reads and writes tensors that stay where they are, also its position, and asks nothing of the host. So one graph
serves all positions that read the same length of the key-value cache, guided or not; the cache has BUCKETS lengths, so
that attention doesn't always read all of it.

Graphs are used on CUDA GPUs unless VQLOOM_CUDA_GRAPHS=0 is set in the environment.

Shapes: B pictures, N codes or places of a picture, D width.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from launch.ranks.transfer import to_device
from stage1_tokenizer.kernels.cpu.linear import product
from stage2_prior.config.drawing import Drawing
from stage2_prior.generation.llama_cache import ALIGNED, CachedBody
from stage2_prior.generation.logits import draw_codes_at, guide_at
from stage2_prior.generation.one_token import OneToken, fused

BUCKETS = 4
"""Lengths of the cache that graphs are made for."""

WARM_UP = 2
"""Runs before a step is captured, in which libraries and compilers do what they do once."""

Kind = TypeVar("Kind", bound="Steps")
Replay = Callable[[], object]
Capture = Callable[[Callable[[], None]], Replay]
"""Makes of a step what repeats its operations on the same memory; the step may run while it is captured."""


def capture_for(device: torch.device) -> Capture | None:
    """A capture for the device; None where steps are not captured: on CPUs, or if the environment says so."""
    if device.type != "cuda" or not torch.cuda.is_available() or os.environ.get("VQLOOM_CUDA_GRAPHS") == "0":
        return None
    return CudaGraphs(device)


class CudaGraphs:
    """Captures steps as CUDA graphs that share one pool of memory: none of them leaves anything in it."""

    def __init__(self, device: torch.device):
        self.device = device
        self._pool: Any = None

    def __call__(self, step: Callable[[], None]) -> Replay:
        """The step's graph, to be launched on the current stream."""
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads (NCCL's, those that decode) may use the device meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                step()
            self._pool = graph.pool()
        return graph.replay


class Steps(ABC):
    """Positions drawn one after the other by captured steps, for batches of one size that are drawn by the same rules.

    What may differ between two batches is in tensors, which `begin` fills. A subclass gives `step` and draws the first.
    """

    before = 0
    """Places of the cache before that of position 0."""

    def __init__(self, body: CachedBody, batch: int, positions: int, rules: Drawing, capture: Capture, compiled: bool):
        """For `batch` pictures; `body` must have been started with all rows, both guidance halves where there are."""
        self.body, self.batch, self.positions, self.rules = body, batch, positions, rules
        self.one_token = OneToken(body, compiled)
        self._chosen = fused(chosen) if compiled else chosen
        self.position_1 = torch.zeros(1, dtype=torch.int64, device=body.norm_D.device)
        self.uniform: Tensor | None = None
        self.given: Tensor | None = None
        self.strength_N: Tensor | None = None
        self.temperature_N: Tensor | None = None
        self._capture, self._replays = capture, dict[tuple[bool, int], Replay]()
        self._cache_L2CTd = body.cache_L2CTd

    @property
    def stale(self) -> bool:
        """Whether the cache that the graphs use is no longer the body's."""
        return self._cache_L2CTd is not self.body.cache_L2CTd

    @abstractmethod
    def step(self, guided: bool, visible: int) -> None:
        """Draw what is at `position_1`, place it and go on by one.

        What it launches may depend on the arguments alone: whether there are both halves, and the length of the cache.
        """

    def go_on(self) -> None:
        """To the next position, the last at most, as the runs before a capture go on too."""
        self.position_1.add_(1).clamp_(max=self.positions - 1)

    def begin(self, first: int, guided: int, uniform: Tensor, drawing: Drawing, given: Tensor | None) -> None:
        """Set what differs between batches, and capture what the positions from `first` on need.

        The first `guided` positions are drawn with both guidance halves. `uniform` are the random numbers, `given` the
        fixed codes, each as `step` reads them. Captures run steps: what is in the cache and the codes is lost.
        """
        steps = range(self.positions)
        self.uniform, self.given = _kept(self.uniform, uniform), _kept(self.given, given)
        self.strength_N = _kept(self.strength_N, self._table(drawing.guidance_at))
        self.temperature_N = _kept(self.temperature_N, self._table(drawing.temperature_at))
        self._keys = [(position < guided, self.visible(position)) for position in steps]
        for position in range(first, self.positions):
            if (key := self._keys[position]) not in self._replays:
                self.position_1.fill_(position)
                self._replays[key] = self._capture(partial(self.step, *key))
        self.position_1.fill_(first)

    def _table(self, of: Callable[[int, int], float]) -> Tensor:
        """A number for each position, float32 on the device."""
        numbers = [of(position, self.positions) for position in range(self.positions)]
        return to_device(torch.tensor(numbers, dtype=torch.float32), self.position_1.device)

    def visible(self, position: int) -> int:
        """Places of the cache that a step at a position reads: all that are filled, rounded up to a bucket."""
        size = -(-self.body.positions // (BUCKETS * ALIGNED)) * ALIGNED
        return min(((self.before + position) // size + 1) * size, self.body.positions)

    def replay(self, first: int) -> None:
        """Draw the positions from `first` on."""
        for key in self._keys[first:]:
            self._replays[key]()

    def choose(self, y_XD: Tensor, head_KD: Tensor, guided: bool, uniform_B: Tensor, given_B: Tensor | None) -> Tensor:
        """The codes code_B at `position_1`, from normed outputs, guided if they are both halves.

        head_KD is a Product's weight.
        """
        assert self.strength_N is not None and self.temperature_N is not None, "begin() comes first"
        strength_1 = self.strength_N.index_select(0, self.position_1) if guided else None
        temperature_1 = self.temperature_N.index_select(0, self.position_1)
        code_B: Tensor = self._chosen(self.rules, y_XD, head_KD, strength_1, temperature_1, uniform_B, given_B)
        return code_B


def chosen(
    rules: Drawing,
    y_XD: Tensor,
    head_KD: Tensor,
    strength_1: Tensor | None,
    temperature_1: Tensor,
    uniform_B: Tensor,
    given_B: Tensor | None,
) -> Tensor:
    """Codes code_B drawn from normed outputs, guided where there is a strength; given ones stay."""
    y_BD = y_XD if strength_1 is None else guide_at(y_XD, strength_1)
    code_B = draw_codes_at(product(y_BD, head_KD).float(), uniform_B, rules, temperature_1)
    return code_B if given_B is None else torch.where(given_B >= 0, given_B, code_B)


class Kept:
    """The steps of the last kind of batch, which the next batch of the same kind takes up again."""

    def __init__(self) -> None:
        self._kept: tuple[Hashable, Steps] | None = None

    def steps(self, kind: Hashable, make: Callable[[], Kind]) -> Kind:
        """Steps for batches of this kind, made if those kept are of another."""
        if self._kept is None or self._kept[0] != kind or self._kept[1].stale:
            self._kept = None  # its memory is free before more is taken
            self._kept = kind, make()
        steps: Kind = self._kept[1]  # type: ignore[assignment]
        return steps


def _kept(there: Tensor | None, value: Tensor | None) -> Tensor | None:
    """A value in the memory of the one before it, as graphs read that; what is None stays None."""
    if there is None or value is None:
        return None if value is None else value.clone()
    return there.copy_(value)
