"""The stage-one step as its paper has it, written plainly: what the one-forward step is held against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stage1_tokenizer.config.training import LossConfig
from stage1_tokenizer.losses.adversarial import discriminator_loss, generator_loss
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.losses.perceptual import PerceptualTerm
from stage1_tokenizer.losses.pixel import PIXEL, PixelTerm
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.training.adversary import Adversary
from stage1_tokenizer.training.step import OneForwardStep


def one_forward(config: LossConfig, lpips: LPIPS | None = None, **settings: Any) -> OneForwardStep:
    """The one-forward step of a configuration, with this LPIPS."""
    terms = [PixelTerm(config), *([PerceptualTerm(config.perceptual, lpips)] if lpips else [])]
    adversaries = [Adversary(adversarial, suffix) for suffix, adversarial in config.adversaries.items()]
    return OneForwardStep(terms, adversaries, quantizer_weight=config.quantizer_weight, **settings)


def textbook_step(
    config: LossConfig,
    generator: Tokenizer,
    discriminator: nn.Module,
    lpips: LPIPS | None,
    x_BCHW: Tensor,
    share: float | None,
) -> dict[str, float]:
    """Leave the gradients of both networks; the losses' values. (Esser et al. 2021, section 3.1 and eq. 7)

    The losses have the whole graph, and the adaptive weight is found by two more backwards, to the last layer.
    `share` is the ramp's factor, or None where the discriminator rests.
    """
    made = generator(x_BCHW)
    rec = config.pixel_weight * PIXEL[config.pixel](made.x_BCHW, x_BCHW)
    values = {"loss/rec": rec.detach() / config.pixel_weight}
    if lpips is not None:
        rec = rec + config.perceptual.weight * lpips(made.x_BCHW, x_BCHW).mean()
    total = rec + config.quantizer_weight * sum(made.losses.values())
    if share is not None:
        adversarial = generator_loss(config.adversarial.loss, discriminator(made.x_BCHW))
        weight = torch.tensor(1.0)
        if config.adversarial.adaptive:
            last = generator.decoder.conv_out.weight
            norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (rec, adversarial)]
            weight = (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
        total = total + config.adversarial.weight * share * weight * adversarial
        values |= {"loss/adversarial": adversarial.detach()}
    total.backward(inputs=[parameter for parameter in generator.parameters() if parameter.requires_grad])
    if share is not None:
        x = x_BCHW.detach().requires_grad_()
        x_hat = made.x_BCHW.detach().requires_grad_()
        real, fake = discriminator(x), discriminator(x_hat)
        loss = discriminator_loss(config.adversarial.loss, real, fake)
        values["loss/discriminator"] = loss.detach()
        if config.adversarial.lecam:  # at the first step, when the averages are this batch's
            means = real.detach().mean(), fake.detach().mean()
            loss = loss + config.adversarial.lecam * ((real - means[1]) ** 2).mean()
            loss = loss + config.adversarial.lecam * ((fake - means[0]) ** 2).mean()
        of_fake = config.adversarial.penalty_fake
        for gamma, logits, pictures in ((config.adversarial.penalty, real, x), (of_fake, fake, x_hat)):
            (towards_x,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
            weight = gamma / 2 * config.adversarial.penalty_every
            loss = loss + weight * sum(gradient.square().sum() for gradient in towards_x) / len(x)
        loss.backward()
    return {name: float(value) for name, value in values.items()}
