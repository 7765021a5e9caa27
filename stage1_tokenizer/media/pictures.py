"""Pictures: their loss terms, discriminators and figures, and how they are shown."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from data.pictures.batches import PictureBatch
from data.pictures.config import TransformConfig
from data.pictures.transforms import to_float
from launch.run.runtime import Run
from stage1_tokenizer.config.losses import OF_SOUNDS, LossConfig
from stage1_tokenizer.discriminators import DISCRIMINATORS
from stage1_tokenizer.losses.logits import LogitsTerm
from stage1_tokenizer.losses.lpips import PerceptualTerm, load_lpips
from stage1_tokenizer.losses.pixel import PixelTerm
from stage1_tokenizer.losses.semantic import SemanticTerm, Teacher
from stage1_tokenizer.losses.term import Term, further_terms
from stage1_tokenizer.measuring.features import FeatureName, load_network
from stage1_tokenizer.measuring.scores import EvaluationSums
from stage1_tokenizer.measuring.scores import measure as scores_of
from stage1_tokenizer.measuring.side_by_side import save_pictures
from stage1_tokenizer.media.medium import Medium
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.projector import aligned_features

SHOWN = 16
"""Held-out pictures shown at each evaluation."""

TERMS: dict[str, Callable[..., Term]] = {}
"""Terms that loss.terms may name, beside the pixel term and the perceptual one; each takes its settings by name."""


def input_of(batch: PictureBatch, device: torch.device) -> Tensor:
    """x_BCHW from bytes."""
    return to_float(batch.pixels_BCHW.to(device, non_blocking=True))


def terms(config: LossConfig, transform: TransformConfig | None = None) -> list[Term]:
    """The pixel term, the others that have a weight, and those of loss.terms."""
    perceptual = config.perceptual
    found: list[Term] = [PixelTerm(config)]
    if perceptual.weight:
        found.append(PerceptualTerm(perceptual, load_lpips(perceptual.net, perceptual.weights)))
    if config.logits.weight:
        found.append(LogitsTerm(config.logits))
    if config.semantic.weight:
        found.append(SemanticTerm(config.semantic, Teacher(config.semantic)))
    return [*found, *further_terms(config.terms, TERMS)]


def measure(
    tokenizer: Tokenizer, batches: Iterable[PictureBatch], terms: list[Term], features: FeatureName, run: Run
) -> dict[str, float]:
    """PSNR, SSIM, LPIPS (where it is a term), codebook use; distances between the sets unless `features` is none.

    With loss.semantic, `semantic_cosine` too: of projected features with the frozen network's.
    """
    lpips = next((term.lpips for term in terms if isinstance(term, PerceptualTerm)), None)
    network = load_network(features, lpips=lpips)
    sums = EvaluationSums(network.to(run.device), run.device) if network is not None else None
    aligned = {f"{term.name}_cosine": _cosines(term) for term in terms if isinstance(term, SemanticTerm)}
    figures = scores_of(tokenizer, batches, lpips, device=run.device, total=run.sum, sums=sums, others=aligned)
    return figures if sums is None else figures | sums.distances(run)


def _cosines(term: SemanticTerm) -> Callable[[Tokenizer, Tensor], Tensor]:
    return lambda tokenizer, x_BCHW: term.cosines(aligned_features(tokenizer, x_BCHW), x_BCHW)


def show(path: Path, tokenizer: Tokenizer, index: str) -> None:
    """Write a PNG of pictures of an index beside their reconstructions."""
    save_pictures(path.with_suffix(".png"), tokenizer, index, SHOWN)


FIT = tuple(name for name in DISCRIMINATORS if name not in OF_SOUNDS)
"""Discriminators that take pictures."""

PICTURES = Medium("pictures", FIT, input_of, terms, measure, show, shown="pictures")
