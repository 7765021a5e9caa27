"""Videos: their loss terms, discriminators and figures, and how they are shown.

A batch of pictures in a mixture with videos is one of clips of one frame.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from data.pictures.transforms import to_float
from data.videos.batches import VideoBatch
from data.videos.config import VideoConfig
from launch.run.runtime import Run
from stage1_tokenizer.config.losses import OF_SOUNDS, LossConfig
from stage1_tokenizer.discriminators import DISCRIMINATORS
from stage1_tokenizer.losses.lpips import PerceptualTerm, load_lpips
from stage1_tokenizer.losses.pixel import PixelTerm
from stage1_tokenizer.losses.term import Term, further_terms
from stage1_tokenizer.losses.video import FrameDifferenceTerm, FramePerceptualTerm
from stage1_tokenizer.measuring.features import FeatureName
from stage1_tokenizer.measuring.video_features import load_video_network
from stage1_tokenizer.measuring.video_scores import ClipSets, measure_videos
from stage1_tokenizer.measuring.videos_shown import save_videos
from stage1_tokenizer.media.medium import Medium
from stage1_tokenizer.tokenizer.model import Tokenizer

SHOWN = 8
"""Held-out clips shown at each evaluation."""

TERMS: dict[str, Callable[..., Term]] = {"frame_difference": FrameDifferenceTerm}
"""Terms that loss.terms may name, beside the pixel term and the perceptual one; each takes its settings by name."""


def input_of(batch: VideoBatch, device: torch.device) -> Tensor:
    """x_BCTHW from bytes."""
    return to_float(batch.pixels_BCTHW.to(device, non_blocking=True))


def terms(config: LossConfig, transform: VideoConfig | None = None) -> list[Term]:
    """The pixel term, the perceptual one of single frames where it has a weight, and those of loss.terms."""
    perceptual = config.perceptual
    lpips = load_lpips(perceptual.net, perceptual.weights) if perceptual.weight else None
    standard = [PixelTerm(config), *([FramePerceptualTerm(perceptual, lpips)] if lpips else [])]
    return [*standard, *further_terms(config.terms, TERMS)]


def measure(
    tokenizer: Tokenizer, batches: Iterable[VideoBatch], terms: list[Term], features: FeatureName, run: Run
) -> dict[str, float]:
    """The figures of `measure_videos`, LPIPS where it is a term; distances between sets unless `features` is none."""
    lpips = next((term.lpips for term in terms if isinstance(term, PerceptualTerm)), None)
    network = load_video_network(features, lpips)
    sets = ClipSets(network.to(run.device), run.device) if network is not None else None
    figures = measure_videos(tokenizer, batches, lpips, device=run.device, total=run.sum, sets=sets)
    return figures if sets is None else figures | sets.distances(run)


def show(path: Path, tokenizer: Tokenizer, index: str) -> None:
    """Write a folder of animated WebP files and, beside it, a PNG of their frames: originals and reconstructions."""
    save_videos(path, path.with_suffix(".png"), tokenizer, index, SHOWN)


FIT = tuple(name for name in DISCRIMINATORS if name not in OF_SOUNDS)
"""Discriminators that take videos: patch along three axes, all of them on single frames (per_frame)."""

VIDEOS = Medium(
    "videos", FIT, input_of, terms, measure, show, shown="videos", network=lambda name: load_video_network(name, None)
)
