"""A whole step of stage one as a CUDA graph: one launch instead of thousands, where pictures are small.

A graph repeats what it recorded, at the same addresses. So what depends on the step is on the device, in `dials` that
are set before each step: the share of the learning rate, the averages' share and the adversaries' ramps. What chooses
other work has a graph of its own: which adversaries have started, have a penalty in this step, and know LeCam's means.
Steps that draw or revive codes aren't captured, nor are the first few of each kind: they are real steps, which also
make the optimizers' state. Noise is as without a graph: torch gives a replay the generator's seed and offset.

Legend: B batch, C channels, H W pixels.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from launch.command.cli import UserError
from launch.run.schedule import learning_rate
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.training.trained import Trained

Scalars = dict[str, Tensor | float]
Step = Callable[..., tuple[Scalars, Tensor]]
"""train_step of stage1_tokenizer.training.loop."""

WARM_UP = 3
"""Steps of each kind that are run before one is captured."""


class Recorder(Protocol):
    """Runs a step without and with recording it."""

    def run(self, step: Callable[[], Any]) -> Any:
        """What `step` returns, run as it is before it is captured."""

    def capture(self, step: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record a step and do it once: what replays it, and what it returned, which each replay overwrites."""


class CudaGraphs:
    """The recorder of CUDA devices; all graphs share their memory, as only one of them runs at a time."""

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, step: Callable[[], Any]) -> Any:
        """On a stream of its own, as captures are: torch asks for that."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            made = step()
        torch.cuda.current_stream().wait_stream(self.stream)
        return made

    def capture(self, step: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Other threads, which read samples into pinned memory, may go on meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            made = step()
        graph.replay()
        return graph.replay, made


def check_cuda_graph(gpu: bool, ranks: int, strategy: str) -> None:
    """Raise UserError where a step can't be a CUDA graph."""
    if not gpu:
        raise UserError("cuda_graph=true needs a CUDA GPU, and this run has none: set cuda_graph=false")
    if ranks > 1 or strategy != "ddp":
        raise UserError(
            f"cuda_graph=true is for one rank, not for {ranks} with run.strategy={strategy}: start one process, or set "
            "cuda_graph=false"
        )


class CapturedStep:
    """train_step(config, trained, x, step, share, **beside), replayed from CUDA graphs where it can be."""

    def __init__(self, config: TokenizerTrainConfig, trained: Trained, step: Step, recorder: Recorder):
        self.config, self.trained, self.step, self.recorder = config, trained, step, recorder
        self._device = next(trained.tokenizer.parameters()).device
        adversaries = trained.gradients.adversaries
        # Fused optimizers want the rate as float32 on GPUs, and on CPUs as Python's own float64.
        kind = torch.float32 if self._device.type == "cuda" else torch.float64
        self._share = torch.zeros((), dtype=kind, device=self._device)
        trained.ema.dial = torch.zeros((), device=self._device)
        for adversary in adversaries:
            adversary.dial = torch.zeros((), device=self._device)
        trained.tokenizer.quantizer.led = True
        self._inputs: dict[str, Tensor] = {}
        self._done: Counter[Hashable] = Counter()
        self.graphs: dict[Hashable, tuple[Callable[[], None], tuple[Scalars, Tensor]]] = {}

    def __call__(self, x_BCHW: Tensor, step: int, **beside: Tensor) -> tuple[Scalars, Tensor]:
        """One step; what it returns is there until the next one."""
        inputs = {"x_BCHW": x_BCHW, **beside}
        share = self._set_dials(step)
        tokenizer, quantizer = self.trained.tokenizer, self.trained.tokenizer.quantizer
        if quantizer.training:
            quantizer.begin(len(x_BCHW) * math.prod(tokenizer.grid(x_BCHW.shape[2:])))
        kind = self._kind(step)
        if quantizer.training and (quantizer.starting or quantizer.reviving):
            scalars, good = self._run(inputs, step)
        elif kind in self.graphs:
            for name, new in inputs.items():
                self._inputs[name].copy_(new, non_blocking=True)
            replay, (scalars, good) = self.graphs[kind]
            replay()
        elif self._done[kind] < WARM_UP:
            self._done[kind] += 1
            scalars, good = self._run(inputs, step)
        else:
            scalars, good = self._capture(kind, inputs, step)
        return {**scalars, "optimizer/rate_share": share}, good

    def _set_dials(self, step: int) -> float:
        share = learning_rate(self.config.optimizer, step, self.config.steps, peak=1.0)
        self._share.fill_(share)
        assert self.trained.ema.dial is not None
        self.trained.ema.dial.fill_(self.trained.ema.share(step))
        for adversary in self.trained.gradients.adversaries:
            assert adversary.dial is not None
            adversary.dial.fill_(adversary.ramp_at(step) or 0.0)
        return share

    def _kind(self, step: int) -> Hashable:
        """What decides which work a step does."""
        return tuple(
            adversary.ramp_at(step) is not None
            and (
                bool(adversary.config.penalty or adversary.config.penalty_fake) and adversary.penalised(step),
                bool(adversary.config.lecam) and adversary.lecam.known,
            )
            for adversary in self.trained.gradients.adversaries
        )

    def _run(self, inputs: dict[str, Tensor], step: int) -> tuple[Scalars, Tensor]:
        return self.recorder.run(partial(self._step, inputs, step))

    def _step(self, inputs: dict[str, Tensor], step: int) -> tuple[Scalars, Tensor]:
        return self.step(self.config, self.trained, step=step, share=self._share, **inputs)

    def _capture(self, kind: Hashable, inputs: dict[str, Tensor], step: int) -> tuple[Scalars, Tensor]:
        if not self._inputs:
            self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        for name, new in inputs.items():
            self._inputs[name].copy_(new)
        learners = [self.trained.generator, *self.trained.discriminators]
        groups = [group for learner in learners for group in learner.optimizer.param_groups]
        for group in groups:  # torch's optimizers ask for it in a capture; fused ones work the same without
            group["capturable"] = True
        try:
            self.graphs[kind] = self.recorder.capture(partial(self._step, self._inputs, step))
        finally:
            for group in groups:
                group["capturable"] = False
        return self.graphs[kind][1]
