"""Whether drawn pictures show what their sentences say, for sets of pictures composed of small ones in cells.

Such a set's index has `meta["composed"]` = {"words": [WORD, …], "places": {PLACE: (row, column), …}, "cell": SIDE}: a
sentence says "WORD at the PLACE" of each thing in the picture, and PLACE is a square cell of SIDE pixels. A small
convolutional network, fitted to the cells of real pictures, tells which word's thing a cell shows, or that it is empty.

    agreement        share of the samples whose every cell shows what the sentence says: the things, and where they are
    cell_agreement   the same by cell that the sentence names
    real_accuracy    `agreement` of real held-out pictures and their sentences: what the classifier is worth

Shapes: B pictures, P places, X cells, C channels, H W pixels, S side of a cell.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.command.cli import UserError
from stage2_prior.priors.base import Prior, weights_hash

EPOCHS, BATCH, RATE, TURNS = 20, 128, 4e-3, 0.1
"""Passes over the cells, cells of a step, the largest learning rate, and by how much cells are distorted at random."""


@dataclass(frozen=True)
class Composition:
    """What the sentences of a set say, and where it is seen."""

    words: tuple[str, ...]
    corners_P2: dict[str, tuple[int, int]]
    """First row and column of each place."""
    cell: int
    """S."""
    nothing: str = ""
    """The word for a place where nothing is, beside leaving the place out."""

    @classmethod
    def of(cls, index: ShardIndex) -> Self | None:
        """That of an index; None for most sets. UserError where it can't be read."""
        found = index.meta.get("composed")
        if not found:
            return None
        try:
            corners = {name: (int(row), int(column)) for name, (row, column) in found["places"].items()}
            return cls(tuple(found["words"]), corners, int(found["cell"]), str(found.get("nothing", "")))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{index.path}: meta.composed can't be read ({error}): remove or mend it") from error

    def said(self, sentence: str) -> list[int]:
        """The number of the word that a sentence has at each place, label_P; len(words) where it names nothing.

        UserError for a sentence that names no place, or an unknown word at one.
        """
        label_P = []
        for place in self.corners_P2:
            found = re.search(rf"(\w+) at the {re.escape(place)}\b", sentence)
            found = None if found and found[1] == self.nothing else found
            if found and found[1] not in self.words:
                raise UserError(f"{sentence!r} has {found[1]!r} at the {place}, which isn't one of the set's words")
            label_P.append(self.words.index(found[1]) if found else len(self.words))
        if set(label_P) == {len(self.words)}:
            raise UserError(f"{sentence!r} says of no place what is there: give sentences of the set's form")
        return label_P

    def labels(self, sentences: Sequence[str]) -> Tensor:
        """`said` of several, label_BP int64."""
        return torch.tensor([self.said(sentence) for sentence in sentences])

    def cells(self, pixels_BCHW: np.ndarray) -> Tensor:
        """The cells, x_BPCSS float32 in [0, 1]."""
        x_BCHW, side = torch.from_numpy(pixels_BCHW).float() / 255, self.cell
        found = [x_BCHW[:, :, row : row + side, column : column + side] for row, column in self.corners_P2.values()]
        if any(cell.shape[2:] != (side, side) for cell in found):
            raise UserError(f"pictures of {x_BCHW.shape[3]}×{x_BCHW.shape[2]} pixels lack some of the set's places")
        return torch.stack(found, dim=1)


class CellClassifier:
    """What a cell shows, by a network fitted to real ones; the same cells give the same network."""

    what = f"convolutional network of three layers on cells of coarse pixels, {EPOCHS} epochs"

    def __init__(self, composition: Composition, pixels_BCHW: np.ndarray, sentences: Sequence[str]):
        self.composition, classes = composition, len(composition.words) + 1
        x_XCSS, label_X = self._training(composition.cells(pixels_BCHW), composition.labels(sentences))
        if len(missing := set(range(classes)) - set(label_X.tolist())):
            names = [*composition.words, "nothing"]
            raise UserError(f"data has no cell with {names[min(missing)]}: raise limit")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = _network(x_XCSS.shape[1], composition.cell, classes)
            _fit(self.network, x_XCSS, label_X)

    def _training(self, x_BPCSS: Tensor, label_BP: Tensor) -> tuple[Tensor, Tensor]:
        """The cells with things, and as many empty ones as each word has on average."""
        x_XCSS, label_X, empty = x_BPCSS.flatten(0, 1), label_BP.flatten(), len(self.composition.words)
        things_X = (label_X != empty).nonzero()[:, 0]
        empty_X = (label_X == empty).nonzero()[:, 0][: -(-len(things_X) // empty)]
        kept_X = torch.cat([things_X, empty_X])
        return x_XCSS[kept_X], label_X[kept_X]

    @torch.inference_mode()
    def seen(self, pixels_BCHW: np.ndarray) -> Tensor:
        """The label of each cell, label_BP."""
        x_BPCSS = self.composition.cells(pixels_BCHW)
        parts = [self.network(part).argmax(1) for part in x_BPCSS.flatten(0, 1).split(512)]
        return torch.cat(parts).unflatten(0, x_BPCSS.shape[:2])


def _network(channels: int, side: int, classes: int) -> nn.Sequential:
    last = 64 * (-(-side // 4)) ** 2
    return nn.Sequential(
        *(nn.Conv2d(channels, 24, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(48, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(last, 128), nn.ReLU(), nn.Linear(128, classes)),
    )


def _fit(network: nn.Module, x_XCSS: Tensor, label_X: Tensor) -> None:
    """Fit by AdamW to cells that are turned, sheared, scaled and moved a little."""
    optimizer = torch.optim.AdamW(network.parameters())
    steps = max(1, EPOCHS * len(x_XCSS) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    order_X = torch.cat([torch.randperm(len(x_XCSS)) for _ in range(EPOCHS + 1)])
    same_23 = torch.eye(2, 3)
    for step in range(steps):
        chosen_B = order_X[step * BATCH : (step + 1) * BATCH]
        x_BCSS = x_XCSS[chosen_B]
        turn_B23 = same_23 + TURNS * torch.randn(len(chosen_B), 2, 3)
        where_BSS2 = F.affine_grid(turn_B23, list(x_BCSS.shape), align_corners=False)
        logits_BK = network(F.grid_sample(x_BCSS, where_BSS2, align_corners=False))
        optimizer.zero_grad()
        F.cross_entropy(logits_BK, label_X[chosen_B]).backward()
        optimizer.step()
        schedule.step()


def real_pictures(
    index: ShardIndex, transform: TransformConfig, limit: int, batch_size: int
) -> tuple[np.ndarray, list[str]]:
    """Pixels, uint8 (B, C, H, W), and sentences of a set, evenly spaced."""
    batches = list(every_sample(index, transform, batch_size=batch_size, limit=limit))
    pixels_BCHW = np.concatenate([batch.pixels_BCHW.numpy() for batch in batches])
    return pixels_BCHW, [text for batch in batches for text in batch.captions]


def drawn_pictures(
    folder: str, prior: Prior, transform: TransformConfig
) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """Pixels of the samples of a finished sampling, what each was asked to show, and its samples.json."""
    file = Path(folder) / "samples.json"
    described = json.loads(file.read_text()) if file.exists() else {}
    if not described.get("complete"):
        raise UserError(f"samples={folder} holds no finished samples: run stage2_prior.sample there first, to its end")
    if described["tokenizer"] != prior.source.tokenizer:
        raise UserError(f"samples={folder} are of another tokenizer than the prior's: sample again")
    if described.get("prior_weights") not in (None, weights_hash(prior)):
        raise UserError(f"samples={folder} are of another prior: sample again, or give the prior that they are of")
    pictures, sentences = [], []
    for one in described["classes"]:
        for number in range(one["count"]):
            with Image.open(Path(folder) / one["folder"] / f"{number:05d}.png") as image:
                pixels_HWC = np.atleast_3d(np.asarray(image.convert("L" if transform.channels == 1 else "RGB")))
            pictures.append(pixels_HWC.transpose(2, 0, 1))
            sentences.append(str(one["name"] or ""))
    return np.stack(pictures), sentences, described


def composed_agreement(
    samples: str,
    data: ShardIndex,
    held_out: str | None,
    prior: Prior,
    transform: TransformConfig,
    limit: int,
    batch_size: int,
) -> dict[str, Any]:
    """The figures of a folder of samples; `data` are real training pictures, `held_out` other ones, `limit` of each."""
    composition = Composition.of(data)
    assert composition is not None, "the caller has looked"
    pixels_BCHW, sentences, _ = drawn_pictures(samples, prior, transform)
    said_BP = composition.labels(sentences)
    classifier = CellClassifier(composition, *real_pictures(data, transform, limit, batch_size))
    right_BP = classifier.seen(pixels_BCHW) == said_BP
    identity = Identity.of(data)
    results: dict[str, Any] = {
        "agreement": float(right_BP.all(1).double().mean()),
        "cell_agreement": float(right_BP[said_BP < len(composition.words)].double().mean()),
        "samples": len(sentences),
        "classifier": classifier.what,
        "fitted_to": {"data": identity.brief(), "digest": identity.digest},
    }
    if held_out:
        real_BCHW, own = real_pictures(load_index(held_out), transform, limit, batch_size)
        right_BP = classifier.seen(real_BCHW) == composition.labels(own)
        results["real_accuracy"] = float(right_BP.all(1).double().mean())
        results["real_samples"] = len(own)
    return results
