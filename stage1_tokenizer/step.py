"""The stage-one step, one forward (being written): the signatures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from stage1_tokenizer.config import LossConfig
from stage1_tokenizer.perceptual import LPIPS


@dataclass
class Reconstruction:
    """What the generator's (the Tokenizer's) forward(x_BCHW) returns for training."""

    x_BCHW: Tensor
    """The reconstruction: decoder.last_layer(features)."""
    features_BCHW: Tensor
    """What entered the decoder's last layer: decoder.features(z)."""
    codes_Bhw: Tensor | None
    """The quantizer's codes."""
    losses: dict[str, Tensor]
    """The quantizer's losses."""


@dataclass
class StepResult:
    """What one step leaves besides gradients; all detached, on the device."""

    metrics: dict[str, Tensor]
    """Scalars: loss/rec, loss/perceptual, loss/commitment, loss/adversarial, loss/discriminator, gan/weight, …"""
    reconstruction: Reconstruction
    """The reconstruction and the codes (for code usage, pictures)."""
    discriminator_trained: bool
    """Whether the discriminator has gradients: step its optimizer only then."""


class OneForwardStep:
    """Gradients of tokenizer and discriminator from one forward of each (see the module's text).

    The caller zeroes gradients before, clips and steps both optimizers after. `generator` and `discriminator` may be
    wrapped (DDP with broadcast_buffers=False); `generator(x)` returns a Reconstruction and, unwrapped, has `.decoder.last_layer`.
    `autocast` opens the mixed-precision region for the networks' forwards (accelerator.autocast); `backward` is
    accelerator.backward where that is wanted.
    """

    def __init__(
        self,
        config: LossConfig,
        perceptual: LPIPS | None,
        *,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        backward: Callable[[Tensor], None] = Tensor.backward,
    ):
        raise NotImplementedError

    def __call__(self, generator: nn.Module, discriminator: nn.Module | None, x_BCHW: Tensor, step: int) -> StepResult:
        """Leave both gradients in the parameters. `discriminator` may be None where adversarial.weight is 0."""
        raise NotImplementedError
