"""Alignment with a frozen vision transformer: forms of the distance, the network, and the term (loss.semantic).

The term is not at the reconstruction but at features of the tokenizer, which a projector in the generator has brought
to the network's width (`stage1_tokenizer/tokenizer/projector.py`); value and gradient there are those of any term.
Legend: B batch, C channels, H W pixels, M positions of the network, N positions of the tokenizer, E width.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launch.command.cli import UserError
from launch.ranks.reduce import differentiable_rows
from stage1_tokenizer.config.semantic import SemanticConfig
from stage1_tokenizer.layers.precision import at_least_float32
from stage1_tokenizer.losses.frozen_networks import Entrance, loaded, statistics_of
from stage1_tokenizer.losses.term import Term


class Features(NamedTuple):
    """What a frozen network says of pictures."""

    patches_BME: Tensor
    """Of each patch, row by row, without class and register tokens."""
    pooled_BE: Tensor
    """Of each picture: the network's own pooling, its class token, or the mean of its patches."""


def cosine_form(own_BNE: Tensor, given_BNE: Tensor) -> Tensor:
    """Mean of 1 - cos over positions and pictures. (GigaTok, Xiong et al. 2025, leaves the 1 out)"""
    return (1 - F.cosine_similarity(own_BNE, given_BNE, dim=2)).mean()


def margin_form(own_BNE: Tensor, given_BNE: Tensor, margins: tuple[float, float]) -> Tensor:
    """Mean relu(1 - m1 - cos) plus mean relu(|S - S'| - m2). (VA-VAE, Yao & Wang 2025)

    S and S' are the cosines between the positions of one picture, (B, N, N).
    """
    of_cosines, of_distances = margins
    near = F.relu(1 - of_cosines - F.cosine_similarity(own_BNE, given_BNE, dim=2)).mean()
    own_BNN, given_BNN = (unit @ unit.mT for unit in (F.normalize(h, dim=2) for h in (own_BNE, given_BNE)))
    return near + F.relu((own_BNN - given_BNN).abs() - of_distances).mean()


def contrastive_form(own_BE: Tensor, given_BE: Tensor, *, scale: float, unit_length: bool) -> Tensor:
    """Mean of the cross-entropies in both directions over the pictures of all ranks. (Radford et al. 2021; XQGAN)

    Each rank gets the value of the whole batch, with gradients to the vectors of every rank: all of them call it.
    """
    if unit_length:
        own_BE, given_BE = F.normalize(own_BE, dim=1), F.normalize(given_BE, dim=1)
    logits_BB = scale * differentiable_rows(own_BE) @ differentiable_rows(given_BE).T
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)) / 2


class Teacher(nn.Module):
    """A frozen vision transformer of transformers."""

    def __init__(self, config: SemanticConfig):
        """Raises UserError if there is no such network, or if it is none of patches."""
        super().__init__()
        key, name = "loss.semantic.network", str(config.network)
        network, folder = loaded(key, name, "AutoModel")
        self.network = cast(Any, network.vision_model if hasattr(network, "vision_model") else network)
        settings = self.network.config
        if not isinstance(getattr(settings, "patch_size", None), int) or not hasattr(settings, "hidden_size"):
            raise UserError(
                f"{key}={name} is no vision transformer on patches: give DINOv2, SigLIP or CLIP, for example"
            )
        self.patch, self.width = settings.patch_size, settings.hidden_size
        statistics = statistics_of(config.normalise, folder, "loss.semantic.normalise")
        self.enter = Entrance(statistics, config.size, config.resize)
        # Those that don't have the argument interpolate by themselves.
        known = inspect.signature(self.network.forward).parameters
        self.others = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in known else {}

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Positions along each axis, of pictures of this size."""
        sides = (self.enter.size,) * 2 if self.enter.size else (height, width)
        return sides[0] // self.patch, sides[1] // self.patch

    @torch.no_grad()
    def forward(self, x_BCHW: Tensor) -> Features:
        """Features, at least float32, of pictures in [-1, 1] of 1 or 3 channels."""
        entering = self.enter(x_BCHW)
        rows, columns = self.grid(*x_BCHW.shape[2:])
        output = self.network(pixel_values=entering, **self.others)
        tokens_BTE = at_least_float32(output.last_hidden_state)
        before = tokens_BTE.shape[1] - rows * columns  # class and register tokens
        patches_BME, pooled = tokens_BTE[:, before:], getattr(output, "pooler_output", None)
        if pooled is None:
            pooled = tokens_BTE[:, 0] if before else patches_BME.mean(1)
        return Features(patches_BME, at_least_float32(pooled))


class SemanticTerm(Term):
    """The distance between projected features and a frozen network's; `weight`, before any adaptive one."""

    name = "semantic"

    def __init__(self, config: SemanticConfig, teacher: Teacher):
        super().__init__(config.weight)
        self.config = config
        self.teacher = teacher
        self.autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def settle(self, device: torch.device, precision: str) -> str:
        """Run the network in mixed precision where the run has it."""
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if precision in kinds:
            self.autocast = lambda: torch.autocast(device.type, kinds[precision])
        return ""

    def check(self, sizes: Sequence[int], positions: Sequence[int]) -> None:
        """Raise UserError unless the network has the tokenizer's positions for pictures of this size.

        A grid must be the same. A sequence must divide its positions: each is compared with several in a row (SoftVQ).
        """
        theirs, own = self.teacher.grid(sizes[0], sizes[1]), tuple(positions)
        if self.config.form == "contrastive" or own == theirs or (len(own) == 1 and math.prod(theirs) % own[0] == 0):
            return
        patch = self.teacher.patch
        way = f"set it to {own[0] * patch}" if len(own) == 2 and own[0] == own[1] else "choose another"
        raise UserError(
            f"loss.semantic.size={self.config.size} gives {'×'.join(map(str, theirs))} positions of {patch} pixels in "
            f"{self.config.network}, and the tokenizer has {'×'.join(map(str, own))}: {way}"
        )

    def target(self, x_BCHW: Tensor, micro_batch: int | None = None) -> Tensor:
        """What features are compared with, (B, M, E): the network's at each position, or pooled, with M = 1."""
        with self.autocast():
            parts = [self.teacher(part_BCHW) for part_BCHW in x_BCHW.split(micro_batch or len(x_BCHW))]
        if self.config.form == "contrastive":
            return torch.cat([part.pooled_BE for part in parts])[:, None]
        return torch.cat([part.patches_BME for part in parts])

    def forward(self, own_BNE: Tensor, x_BCHW: Tensor) -> Tensor:
        """The value for projected features (B, N, E) of pictures."""
        return self._value(own_BNE, self.target(x_BCHW))

    def at(self, own_BNE: Tensor, x_BCHW: Tensor, micro_batch: int | None = None) -> tuple[Tensor, Tensor]:
        """The value, and the gradient of weight · value at the features, from `micro_batch` pictures at a time."""
        leaf = own_BNE.detach().requires_grad_()
        value = self._value(leaf, self.target(x_BCHW, micro_batch))
        (gradient,) = torch.autograd.grad(self.weight * value, leaf)
        return value.detach(), gradient

    def cosines(self, own_BNE: Tensor, x_BCHW: Tensor) -> Tensor:
        """Mean cosine of each picture's features with the network's, (B,)."""
        given = self.target(x_BCHW)
        return F.cosine_similarity(_repeated(own_BNE, given), given, dim=2).mean(1)

    def _value(self, own_BNE: Tensor, given_BNE: Tensor) -> Tensor:
        config, own_BNE = self.config, _repeated(at_least_float32(own_BNE), given_BNE)
        given_BNE = given_BNE.to(own_BNE.dtype)
        if config.form == "contrastive":
            return contrastive_form(own_BNE[:, 0], given_BNE[:, 0], scale=config.scale, unit_length=config.unit_length)
        if config.form == "margin":
            return margin_form(own_BNE, given_BNE, (config.margins[0], config.margins[1]))
        return cosine_form(own_BNE, given_BNE)


def _repeated(own_BNE: Tensor, given_BME: Tensor) -> Tensor:
    """Features of N positions for M, a multiple of N: each M/N times in a row."""
    times = given_BME.shape[1] // own_BNE.shape[1]
    return own_BNE if times == 1 else own_BNE.repeat_interleave(times, dim=1)
