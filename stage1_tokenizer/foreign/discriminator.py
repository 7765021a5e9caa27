"""A peer's PatchGAN discriminator, kept for fine-tuning.

The published ones use the names of Isola et al.'s code, as ours does: main.0 is a convolution, then come a convolution,
a norm and a ReLU for each layer, then the last convolution.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from launch.checkpoints.names import unwrapped
from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators import Discriminator

FILE = "discriminator.safetensors"
UNUSED = ("running_mean", "running_var", "num_batches_tracked")


def discriminator(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]] | str:
    """A peer's discriminator as tensors by our names and settings of loss.adversarial; or the reason why none fits.

    The running averages of batch norms are dropped: ours uses the batch's statistics, as they do in training.
    """
    if not weights:
        return "the checkpoint has none"
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith(UNUSED)}
    first = kept.get("main.0.weight")
    strided = sum(1 for name, tensor in kept.items() if name.endswith(".weight") and tensor.ndim == 4) - 2
    if first is None or first.ndim != 4 or strided < 1:
        return "it isn't a PatchGAN"
    normed = any(name.endswith("running_mean") for name in weights)
    settings: dict[str, Any] = {"channels": len(first), "layers": strided, "norm": "batch" if normed else "none"}
    expected = Discriminator(AdversarialConfig(**settings), first.shape[1]).state_dict()
    odd = differing(expected, kept)
    return f"it differs from ours at {odd}" if odd else (kept, settings)


def differing(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> str | None:
    """The first name that only one of two states has, or whose shapes differ."""
    for name in [*expected, *actual]:
        if name not in actual or name not in expected:
            return name
        if expected[name].shape != actual[name].shape:
            return f"{name}, {tuple(actual[name].shape)} instead of {tuple(expected[name].shape)}"
    return None


def save(folder: Path, weights: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Write discriminator.safetensors, with its settings in the header."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt", "adversarial": json.dumps(settings)})


def load(folder: Path) -> dict[str, Tensor] | None:
    """The discriminator's tensors in a tokenizer's folder; None if it has none."""
    return unwrapped(load_file(folder / FILE), str(folder / FILE)) if (folder / FILE).is_file() else None
