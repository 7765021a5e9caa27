"""Frozen networks of others whose features losses compare: found, loaded, and fed with pictures as they expect them.

A network is a folder or a name on the Hub, loaded by transformers from JSON and safetensors alone, or one of
torchvision's. Nothing here is trained, and nothing is part of a state_dict that is saved.
Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launch.command.cli import UserError, one_line
from launch.files.downloads import answered_within, fetched
from stage1_tokenizer.config.semantic import Normalise
from stage1_tokenizer.layers.precision import at_least_float32

Statistics = tuple[list[float], list[float]]
"""Mean and deviation of each channel of pictures in [0, 1]."""

KNOWN: dict[str, Statistics] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "half": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
}
"""By their name in the configuration; in [-1, 1], `half` leaves pictures as they are."""

PREPROCESSOR = "preprocessor_config.json"
"""Where a network of transformers keeps its own."""


class Entrance(nn.Module):
    """Pictures in [-1, 1] as a frozen network expects them: three channels, resized, less a mean, over a deviation."""

    shift: Tensor
    scale: Tensor

    def __init__(self, statistics: Statistics, size: int, mode: str = "bilinear", *, antialias: bool = False):
        super().__init__()
        self.size, self.mode, self.antialias = size, mode, antialias
        mean_C, deviation_C = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in statistics)
        self.register_buffer("shift", (2 * mean_C - 1).float(), persistent=False)
        self.register_buffer("scale", (2 * deviation_C).float(), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, size, size), at least float32, of pictures of 1 or 3 channels."""
        x = at_least_float32(x_BCHW).expand(-1, 3, -1, -1)
        if self.size and x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode=self.mode, antialias=self.antialias)
        return (x - self.shift.to(x.dtype)) / self.scale.to(x.dtype)


def statistics_of(normalise: Normalise, folder: Path | None, key: str) -> Statistics:
    """Mean and deviation by their name; `auto` are those of the folder's preprocessor_config.json.

    UserError where it has none; `key` is the setting's name.
    """
    if normalise in ("none", "half"):
        return KNOWN["half"]
    if normalise != "auto" or folder is None:
        return KNOWN["imagenet" if normalise == "auto" else normalise]
    try:
        values = json.loads((folder / PREPROCESSOR).read_text())
        return values["image_mean"], values["image_std"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} has no {PREPROCESSOR} with image_mean and image_std, which {key}=auto needs: set {key} to "
            "imagenet, clip, half or none"
        ) from error


def loaded(key: str, name: str, kind: str) -> tuple[nn.Module, Path]:
    """A network of transformers from a folder or the Hub, frozen, and the folder that it came from.

    `kind` is AutoModel or one of its kin, `key` the setting that names the network. UserError where it can't be loaded.
    """
    import transformers

    with answered_within(20):
        folder = fetched(name)
    if not (folder / "config.json").is_file():
        raise UserError(f"{key}={name} is no folder with a config.json: give a folder of transformers, or ORG/NAME")
    try:
        with _quietly():
            network, report = getattr(transformers, kind).from_pretrained(
                folder, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{key}={name} can't be loaded by {kind} ({one_line(error, 160)}): give another") from error
    # Some files leave out the weights of a pooling layer: without the layer, the class token takes its place.
    lacking = [weight for weight in report["missing_keys"] if not weight.startswith("pooler.")]
    if len(lacking) < len(report["missing_keys"]):
        network.pooler = None
    if lacking:
        raise UserError(f"{key}={name} lacks weights ({one_line(lacking[0], 80)}): give a folder that has them all")
    return frozen(network), folder


def torchvision_classifier(name: str, weights: str | None) -> nn.Module:
    """A classifier of torchvision with ImageNet's first weights, or those of a file; frozen. UserError without."""
    import torchvision  # takes a second, and few runs need it

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(
            f"loss.logits.network={name} is neither one of torchvision's classifiers, such as resnet50 and "
            "convnext_small, nor a folder or ORG/NAME of transformers: correct it"
        )
    try:
        if weights is None:
            with answered_within(20):
                return frozen(torchvision.models.get_model(name, weights="IMAGENET1K_V1", progress=False))
        network = torchvision.models.get_model(name, weights=None)
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return frozen(network)
    except Exception as error:  # pickles, sockets, shapes: all have the same ways out
        raise UserError(
            f"no weights of {name} for loss.logits ({one_line(error, 160)}): set loss.logits.weights to torchvision's "
            f"file, or put it into {Path(torch.hub.get_dir()) / 'checkpoints'}"
        ) from error


def frozen(network: nn.Module) -> nn.Module:
    """In evaluation mode and float32, without gradients of its weights."""
    return network.float().eval().requires_grad_(False)


@contextmanager
def _quietly() -> Iterator[None]:
    """Inside, transformers shows no progress and no report of weights that it leaves out."""
    from transformers.utils import logging as transformers_logging

    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()
