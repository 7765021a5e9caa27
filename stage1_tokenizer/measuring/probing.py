"""What a linear map reads out of a tokenizer's codes: classes, and the features of a frozen network.

Both maps are ridge regressions, solved exactly from sums that ranks add up, in float64; they are fitted on one set of
pictures and measured on another. So the figures need no training, no seed and no projector, and compare tokenizers
however they were trained.

linear_probe      share of pictures whose class is right: the largest of K outputs, regressed on one-hot classes, of the
                  mean of the code vectors over positions
semantic_cosine   mean cosine between the network's patch features and their regression on the code vector there

Legend: B batch, D latent channels, h w latent grid, F features with a constant, K classes or width of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.pictures.batches import PictureBatch
from data.pictures.transforms import to_float
from data.shards.identity import Identity
from data.shards.loading import load_index
from launch.command.cli import UserError
from launch.ranks.joined import Ranks
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.config.semantic import SemanticConfig
from stage1_tokenizer.layers.precision import ieee
from stage1_tokenizer.losses.semantic import Teacher
from stage1_tokenizer.measuring.picture_sets import every_picture
from stage1_tokenizer.tokenizer.model import Tokenizer

RIDGE = 1e-3
"""The penalty on each weight over the number of rows, for features scaled to variance 1."""

ABOUT = f"ridge regression, {RIDGE:g} of the rows on features of variance 1"

Rows = tuple[Tensor, Tensor]
"""Inputs (N, D) and outputs (N, K)."""


class Ridge:
    """A linear map with a constant, from the sums of its rows' products."""

    def __init__(self, device: torch.device):
        self._device = device
        self._products: Tensor | None = None
        self._inputs = 0

    def add(self, rows: Rows) -> None:
        """Count some rows."""
        self._inputs = rows[0].shape[1]
        whole_NF = torch.cat([torch.ones_like(rows[0][:, :1]), *rows], dim=1).double()
        product = whole_NF.T @ whole_NF
        self._products = product if self._products is None else self._products + product

    def solved(self, total: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The map of the rows of all ranks, which `total` sums; UserError where there were none."""
        if self._products is None:
            raise UserError("probe holds no picture that can be read: give another set")
        sums = total(self._products).cpu()
        count, split = sums[0, 0], 1 + self._inputs
        mean, centred = sums[0] / count, sums - torch.outer(sums[0], sums[0]) / count
        deviation_D = (centred.diagonal()[1:split] / count).clamp_min(0).sqrt()
        scale_D = torch.where(deviation_D > 1e-12, 1 / deviation_D.clamp_min(1e-12), 0.0)
        square_DD = scale_D[:, None] * centred[1:split, 1:split] * scale_D + count * RIDGE * torch.eye(len(scale_D))
        weight_DK = scale_D[:, None] * torch.linalg.solve(square_DD, scale_D[:, None] * centred[1:split, split:])
        constant_K = mean[split:] - mean[1:split] @ weight_DK
        weight_DK, constant_K = weight_DK.to(self._device), constant_K.to(self._device)
        return lambda inputs_ND: inputs_ND.double() @ weight_DK + constant_K


def probed(config: EvaluateConfig, tokenizer: Tokenizer, ranks: Ranks) -> tuple[dict[str, float], dict[str, Any]]:
    """linear_probe, and with config.teacher semantic_cosine; and what they depend on. Every rank calls it.

    UserError for sets without classes or with other ones, and for a network whose positions aren't the tokenizer's.
    """
    assert config.probe is not None
    classes = _classes(config.probe)
    if _classes(config.data) != classes:
        raise UserError(f"probe={config.probe} has other classes than data={config.data}: give its training set")
    teacher = None if config.teacher is None else _teacher(config.teacher, tokenizer).to(ranks.device)
    with ieee(), torch.no_grad():
        of_classes, of_features = Ridge(ranks.device), Ridge(ranks.device)
        for latents_BDhw, x_BCHW, label_B in _batches(config.probe, config, tokenizer, ranks):
            of_classes.add((latents_BDhw.flatten(2).mean(2), F.one_hot(label_B, len(classes)).to(latents_BDhw)))
            if teacher is not None:
                of_features.add((_rows(latents_BDhw), teacher(x_BCHW).patches_BME.flatten(0, 1)))
        classify = of_classes.solved(ranks.sum)
        regress = None if teacher is None else of_features.solved(ranks.sum)
        sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)
        for latents_BDhw, x_BCHW, label_B in _batches(config.data, config, tokenizer, ranks):
            right = (classify(latents_BDhw.flatten(2).mean(2)).argmax(1) == label_B).double().sum()
            cosine = torch.zeros_like(right)
            if teacher is not None and regress is not None:
                given_NE = teacher(x_BCHW).patches_BME.flatten(0, 1).double()
                each_N = F.cosine_similarity(regress(_rows(latents_BDhw)), given_NE, dim=1)
                cosine = each_N.view(len(x_BCHW), -1).mean(1).sum()
            sums += torch.stack([right, cosine, torch.ones_like(right) * len(x_BCHW)])
        right_all, cosine_all, count = ranks.sum(sums).tolist()
    figures = {"linear_probe": right_all / max(count, 1)}
    if teacher is not None:
        figures["semantic_cosine"] = cosine_all / max(count, 1)
    about = {"method": ABOUT, "set": Identity.of(load_index(config.probe)).digest, "teacher": config.teacher}
    return figures, {**about, "samples": config.probe_samples}


def _batches(
    source: str, config: EvaluateConfig, tokenizer: Tokenizer, ranks: Ranks
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The quantizer's output, the pictures, and their classes."""
    limit = config.probe_samples if source == config.probe else config.samples
    options: dict[str, Any] = {"rank": ranks.rank, "world_size": ranks.world_size, "limit": limit}
    options |= {"batch_size": config.batch_size, "threads": config.threads, "prepare": True}
    assert tokenizer.transform is not None
    batches: Iterable[PictureBatch] = every_picture(source, tokenizer.transform, **options)
    for batch in batches:
        x_BCHW, label_B = to_float(batch.pixels_BCHW.to(ranks.device)), batch.label_B.to(ranks.device)
        if bool((batch.label_B < 0).any()):
            raise UserError(f"{source} has pictures without a class, which probe needs: give a set with classes")
        yield tokenizer.latents(x_BCHW).float(), x_BCHW, label_B


def _rows(latents_BDhw: Tensor) -> Tensor:
    """Each position's code vector, (B·h·w, D)."""
    return latents_BDhw.flatten(2).mT.flatten(0, 1)


def _classes(source: str) -> list[str]:
    classes = load_index(source).classes
    if not classes:
        raise UserError(f"{source} has no classes, which probe needs: give an index with classes, or leave probe out")
    return classes


def _teacher(name: str, tokenizer: Tokenizer) -> Teacher:
    """The network at the size of pictures that gives it the tokenizer's positions."""
    grid = tokenizer.grid(tokenizer.transform.sizes)  # type: ignore[union-attr]
    if len(grid) != 2 or grid[0] != grid[1]:
        raise UserError(f"teacher={name} needs a tokenizer with codes on a square grid, not {grid}: leave it out")
    found = Teacher(SemanticConfig(network=name))
    found.enter.size = grid[0] * found.patch
    return found.eval()
