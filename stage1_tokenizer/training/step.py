"""The stage-one step: gradients of tokenizer and discriminator from one forward of each.

Every term reaches the generator G through its reconstruction x̂ alone (the quantizer's losses apart), so the gradients
of the terms are taken at x̂, weighed there, and sent through G in one backward:

    x̂ = G(x);  x' = x̂ without its graph
    g_rec = ∂(pixel + perceptual)/∂x'             one backward through LPIPS
    g_adv = ∂(adversarial)/∂x'                    one forward of D and one backward to its input; the graph is kept
    weight = ‖g_rec → last layer‖ / (‖g_adv → last layer‖ + 1e-4)
    backward of ⟨x̂, g_rec + weight·g_adv⟩ + the quantizer's losses           gives G's gradients
    backward of D's loss from D(x) and from the logits of x' already there   gives D's gradients

A test holds this equal to the form of the paper. Legend: B batch, C channels, H W pixels, h w latent grid.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from stage1_tokenizer.config.losses import LossConfig
from stage1_tokenizer.discriminators.weight_norms import advance
from stage1_tokenizer.layers.convolution import LastLayer
from stage1_tokenizer.layers.precision import at_least_float32
from stage1_tokenizer.losses.adversarial import (
    PIXEL,
    LeCam,
    adaptive_weight,
    discriminator_loss,
    evenly_spread,
    generator_loss,
    gradient_penalty,
)
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.networks.build import Decoder
from stage1_tokenizer.tokenizer.codec import Reconstruction
from stage1_tokenizer.training.loss_scale import LossScale


@dataclass
class StepResult:
    """What one step leaves besides gradients; all of it detached, on the device."""

    metrics: dict[str, Tensor]
    """Scalars by name: loss/rec, loss/perceptual, loss/<quantizer's>, loss/adversarial, loss/discriminator, gan/…"""
    x_BCHW: Tensor
    """The reconstruction, at least float32."""
    codes_Bhw: Tensor | None
    """The codes of the batch."""
    discriminator_trained: bool
    """Whether the discriminator has got gradients: step its optimizer only then."""


class OneForwardStep:
    """Computes the gradients of one step; the caller zeroes them before, clips and steps both optimizers after.

    `generator` and `discriminator` may be wrapped by DDP. `generator(x)` returns a Reconstruction and, unwrapped, has
    `decoder.last_layer`. `autocast` opens the mixed-precision region for their forwards (accelerator.autocast);
    `backward` is called once for each of them (accelerator.backward). With `micro_batch`, generator and LPIPS see at
    most so many pictures at a time; all that looks at the batch as a whole (quantizer, discriminator, adaptive weight)
    still does, so that the gradients are the same. With `scale`, all gradients are left larger by it.
    """

    def __init__(
        self,
        config: LossConfig,
        perceptual: LPIPS | None,
        *,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        backward: Callable[[Tensor], None] = Tensor.backward,
        micro_batch: int | None = None,
        scale: LossScale | None = None,
    ):
        if (perceptual is None) != (config.perceptual.weight == 0):
            raise ValueError(f"loss.perceptual.weight={config.perceptual.weight} but perceptual is {perceptual}")
        self.config = config
        self.perceptual = perceptual
        self.autocast = autocast
        self.backward = backward
        self.micro_batch = micro_batch
        self.scale = scale
        self.lecam = LeCam(config.adversarial.lecam_decay)

    def adversarial_share(self, step: int) -> float | None:
        """The ramp's factor in (0, 1] at this step; None where the discriminator rests."""
        adversarial = self.config.adversarial
        if not adversarial.weight or step < adversarial.start:
            return None
        return min(1.0, (step - adversarial.start + 1) / max(adversarial.ramp, 1))

    def __call__(self, generator: nn.Module, discriminator: nn.Module | None, x_BCHW: Tensor, step: int) -> StepResult:
        """Leave the gradients of this batch in the parameters of both.

        x_BCHW is this rank's part of the batch, in [-1, 1]. `discriminator` may be None as long as it rests, else
        ValueError.
        """
        share = self.adversarial_share(step)
        if share is not None and discriminator is None:
            raise ValueError(f"loss.adversarial.weight={self.config.adversarial.weight} needs a discriminator")
        with self.autocast():
            made: Reconstruction = generator(x_BCHW, self.micro_batch)
        x_hat = at_least_float32(made.x_BCHW)
        leaf = x_hat.detach().requires_grad_()
        gradient, metrics = self._towards_reconstruction(leaf, x_BCHW)
        fake = None
        if share is not None and discriminator is not None:
            advance(unwrapped(discriminator))
            with self.autocast():
                fake = unwrapped(discriminator)(leaf)
            loss = generator_loss(self.config.adversarial.loss, fake)
            (towards_adv,) = torch.autograd.grad(self._scaled(loss), leaf, retain_graph=True)
            towards_adv = towards_adv / self.scale.value if self.scale else towards_adv
            weight = share * self._weight(_last_layer(generator), made, gradient, towards_adv)
            gradient = gradient + weight * towards_adv
            metrics |= {"loss/adversarial": loss.detach(), "gan/weight": weight}
        quantizer = sum(made.losses.values(), x_hat.new_zeros(()))
        self.backward(self._scaled((x_hat * gradient).sum() + self.config.quantizer_weight * quantizer))
        metrics |= {f"loss/{name}": value.detach() for name, value in made.losses.items()}
        if fake is not None and discriminator is not None:
            metrics |= self._discriminate(discriminator, x_BCHW, leaf, fake, step)
        return StepResult(metrics, x_hat.detach(), made.codes_Bhw, fake is not None)

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss * self.scale.value if self.scale else loss

    def _towards_reconstruction(self, leaf: Tensor, x_BCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """∂(pixel + perceptual)/∂x' and both values."""
        pixel = PIXEL[self.config.pixel](leaf, x_BCHW)
        (gradient,) = torch.autograd.grad(self.config.pixel_weight * pixel, leaf)
        metrics = {"loss/rec": pixel.detach()}
        if self.perceptual is not None:
            some = evenly_spread(len(leaf), self.config.perceptual.fraction, leaf.device)
            distance, size = torch.zeros_like(metrics["loss/rec"]), self.micro_batch or len(some)
            for part_B in some.split(size):
                part_BCHW = leaf.detach()[part_B].requires_grad_()
                share = self.perceptual(part_BCHW, x_BCHW[part_B]).sum() / len(some)
                gradient[part_B] += self.config.perceptual.weight * torch.autograd.grad(share, part_BCHW)[0]
                distance = distance + share.detach()
            metrics["loss/perceptual"] = distance
        return gradient, metrics

    def _weight(self, layer: LastLayer, made: Reconstruction, towards_rec: Tensor, towards_adv: Tensor) -> Tensor:
        """The adversarial term's weight before the ramp."""
        config = self.config.adversarial
        if not config.adaptive:
            return towards_rec.new_tensor(config.weight)
        ratio = adaptive_weight(layer, made.features_BCHW, towards_rec, towards_adv)
        return config.weight * ratio.clamp(max=config.adaptive_limit)

    def _discriminate(
        self, discriminator: nn.Module, x_BCHW: Tensor, leaf: Tensor, fake: Tensor, step: int
    ) -> dict[str, Tensor]:
        """D's gradients, from the logits `fake` of the reconstruction `leaf` and those of the pictures."""
        config = self.config.adversarial
        due = (step - config.start) % config.penalty_every == 0
        pictures = x_BCHW.detach().requires_grad_() if due and config.penalty else x_BCHW
        with self.autocast():
            real = discriminator(pictures)
        loss = discriminator_loss(config.loss, real, fake)
        metrics = {"loss/discriminator": loss.detach()}
        if config.lecam:
            lecam = self.lecam(real, fake)
            loss = loss + config.lecam * lecam
            metrics["loss/lecam"] = lecam.detach()
        pairs = {"": (config.penalty, real, pictures), "_fake": (config.penalty_fake, fake, leaf)}
        for name, (gamma, logits, judged) in pairs.items():
            if due and gamma:
                penalty = gradient_penalty(at_least_float32(logits), judged)
                loss = loss + config.penalty_every * gamma / 2 * penalty
                metrics[f"gan/penalty{name}"] = penalty.detach()
        self.backward(self._scaled(loss))
        real, fake = real.detach().float(), fake.detach().float()
        right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return {**metrics, "gan/logits_real": real.mean(), "gan/logits_fake": fake.mean(), "gan/accuracy": right}


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside a wrapper such as DDP, whose own forward would prepare a gradient reduction."""
    return getattr(module, "module", module)


def _last_layer(generator: nn.Module) -> LastLayer:
    return cast(Decoder, unwrapped(generator).decoder).last_layer
