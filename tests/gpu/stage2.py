"""Steps of stage two on fake CUDA tensors, by the training's own code, and the sampler."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch

from data.codes.batches import CodeBatch
from launch.command.cli import parse
from launch.run.seeding import seed_step
from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.quantizers import Quantizer, build_quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.unified import Packed
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.generation import autoregressive, places
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import build_prior
from stage2_prior.priors.unified import UnifiedPrior
from stage2_prior.training.loop import build, train_step
from stage2_prior.unified.stream import UnifiedBatch
from tests.gpu.stage1 import QUIET, run_of_one
from tests.gpu.watch import CUDA
from tests.stage2_prior.unified.tiny import vocabulary

CLASSES = tuple(f"class {number}" for number in range(10))
LEVELS = CodeSource("f" * 64, 24, (2, 2), {"size": 16, "channels": 1}, codebooks=2)
SOURCES = {
    "autoregressive": CodeSource("f" * 64, 32, (2, 2), {"size": 16, "channels": 1}),
    "depth": LEVELS,
    "delay": LEVELS,
    "multiscale": CodeSource("f" * 64, 24, (2, 2), {"size": 16, "channels": 1}, scales=(1, 2)),
}
"""Small codes for each kind of prior; a masked one takes the autoregressive one's."""


def source_of(kind: str) -> CodeSource:
    """Small codes for a kind of prior."""
    return SOURCES.get(kind, SOURCES["autoregressive"])


def quantizer_of(source: CodeSource, dim: int = 4) -> Quantizer | None:
    """The tokenizer's quantizer, where codes have scales."""
    if not source.scales:
        return None
    settings = {"codebook_size": source.codebook_size, "code_dim": dim, "scales": list(source.scales)}
    return build_quantizer(QuantizerConfig(kind="multiscale", **settings))  # type: ignore[arg-type]


def known_bounds(document_BT: torch.Tensor) -> torch.Tensor:
    """In the place of stage2_prior.priors.documents.bounds: the places of two rows' worth of documents of 5 tokens."""
    return torch.arange(0, document_BT.numel() + 1, 5, dtype=torch.int32)


class Stage2:
    """A training of stage two; on the fake device, make it and call `step` inside `pretend()`."""

    def __init__(
        self,
        options: Sequence[str],
        samples: int | None = None,
        source: CodeSource | None = None,
        classes: Sequence[str] = CLASSES,
        dim: int = 4,
        device: torch.device = CUDA,
    ):
        """`options` are the command's; `samples` a step has, by default data.batch_size."""
        self.config: PriorTrainConfig = parse(PriorTrainConfig, [*options, *QUIET], prog="")
        self.samples = samples or self.config.data.batch_size
        self.source = source or source_of(self.config.model.kind)
        self.run = run_of_one(self.config.run, device)

        def fresh(config: PriorTrainConfig, _: Any) -> Prior:
            if config.model.kind == "unified":
                return UnifiedPrior.fresh(config.model, vocabulary(), config.model.unified.length)
            return build_prior(config.model, self.source, classes, quantizer_of(self.source, dim))

        with mock.patch("stage2_prior.training.loop.fresh", fresh):
            index: Any = None
            self.prior, self.strategy, self.ema, _ = build(self.config, index, self.run)
        self.prior.forward = self.run.autocast()(self.prior.forward)  # as accelerate does
        self.number = 0

    def batch(self) -> CodeBatch | UnifiedBatch:
        """Codes are pinned, as the stream's batches are where there is a GPU."""
        if isinstance(self.prior, UnifiedPrior):
            shape = self.samples, self.prior.source.positions
            kind_BT = torch.arange(shape[1]).expand(shape) % 4
            document_BT = torch.arange(shape[1]).expand(shape) // 5
            packed = Packed(torch.zeros(shape, dtype=torch.int64), document_BT, kind_BT)
            return UnifiedBatch(self.number, packed, self.samples, 0)
        idx_Bhw = torch.zeros(self.samples, *self.source.shape, dtype=torch.int64)
        idx_Bhw = idx_Bhw.pin_memory() if self.run.device.type == "cuda" else idx_Bhw
        label_B = torch.zeros(self.samples, dtype=torch.int64)
        return CodeBatch(self.number, idx_Bhw, label_B, [], ["a text"] * self.samples)

    def step(self) -> None:
        """One step with all that the loop does in it."""
        batch = self.batch()
        seed_step(self.config.run.seed, 0, self.number)
        self.prior.set_progress(self.number / self.config.steps)
        ends = mock.patch("stage2_prior.training.parts.bounds", known_bounds)  # whose number depends on values
        with ends:
            scalars, good = train_step(self.prior, self.strategy, batch, self.config, self.number, self.run)
        self.ema.update(self.number)
        self.run.record(scalars, step=self.number, samples=self.config.data.batch_size, good=good)
        self.number += 1


class Sampler:
    """A prior that draws codes; make it and call `step` inside `pretend()`."""

    def __init__(
        self,
        prior: Prior,
        drawing: Drawing,
        *,
        given: bool,
        device: torch.device,
        rows: int = 2,
        graph: bool = False,
    ):
        """`given`: half of the codes are given, as for inpainting; `graph`: by the steps that graphs are made of."""
        self.prior, self.drawing, self.graph = prior.to(device).eval(), drawing, graph
        self.uniform_BU = torch.rand(rows, prior.draws(drawing), device=device)
        tokens = prior.condition.of_texts(["a text"] * rows) if prior.condition.texts else None
        self.token_B = torch.zeros(rows, dtype=torch.int64) if tokens is None else tokens
        self.token_B = self.token_B.to(device)
        self.given_BN = None
        if given:
            place_N = torch.arange(prior.source.positions)
            self.given_BN = torch.where(place_N % 2 == 0, 0, -1).expand(rows, -1).to(device)

    def step(self) -> None:
        """Draw one batch."""
        capture = (lambda step: step) if self.graph else None
        with contextlib.ExitStack() as patched:
            for module in (autoregressive, places):
                patched.enter_context(mock.patch.object(module, "capture_for", lambda _: capture))
            self.prior.sample(self.token_B, self.uniform_BU, self.drawing, self.given_BN)
