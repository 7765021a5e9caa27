"""What a kind of data (pictures, sounds, videos) brings to the training of a tokenizer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launch.run.runtime import Run
from stage1_tokenizer.config.losses import LossConfig
from stage1_tokenizer.losses.term import Term
from stage1_tokenizer.measuring.features import FeatureName, load_network
from stage1_tokenizer.tokenizer.model import Tokenizer


@dataclass(frozen=True)
class Medium:
    """One record for each kind of data: the trainer takes all that depends on the kind from here."""

    kind: str
    """Its name in indexes and transforms."""
    discriminators: tuple[str, ...]
    """Discriminators (loss.adversarial.discriminator) that take it."""
    input: Callable[[Any, torch.device], Tensor]
    """The networks' input, in [-1, 1], from a batch of the stream; on a device."""
    terms: Callable[[LossConfig, Any], list[Term]]
    """The configured terms at the reconstruction of samples of a transform. Raises UserError where something they need
    is missing."""
    measure: Callable[[Tokenizer, Iterable[Any], list[Term], FeatureName, Run], dict[str, float]]
    """Figures of a tokenizer on held-out samples, over all ranks; with distances on the named network's features."""
    show: Callable[[Path, Tokenizer, str], None]
    """Write a file, named without its suffix, that shows held-out samples beside their reconstructions."""
    shown: str
    """Folder in the run for what `show` writes."""
    network: Callable[[FeatureName], Any] = load_network
    """Load the named network of distances; UserError where there is none for this kind, or its file is missing."""
    beside: Callable[[Any, torch.device], dict[str, Tensor]] = lambda batch, device: {}
    """What else the step takes of a batch, on a device: `valid`, where samples end."""
