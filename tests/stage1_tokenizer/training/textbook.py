"""The stage-one step as its paper has it, written plainly: the reference of the one-forward step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stage1_tokenizer.config.training import AdversarialConfig, LossConfig
from stage1_tokenizer.losses.adversarial import discriminator_loss, generator_loss
from stage1_tokenizer.losses.lpips import LPIPS, PerceptualTerm
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
    discriminators: Sequence[tuple[nn.Module, float | None]],
    lpips: LPIPS | None,
    x_BCHW: Tensor,
) -> dict[str, float]:
    """Leave the gradients of all networks; the losses' values. (Esser et al. 2021, section 3.1 and eq. 7)

    The losses have the whole graph, and each adaptive weight takes two more backwards, to the last layer. Beside each
    of the configuration's discriminators stands the ramp's factor, or None where it rests.
    """
    output = generator(x_BCHW)
    rec = config.pixel_weight * PIXEL[config.pixel](output.x_BCHW, x_BCHW)
    values = {"loss/rec": rec.detach() / config.pixel_weight}
    if lpips is not None:
        rec = rec + config.perceptual.weight * lpips(output.x_BCHW, x_BCHW).mean()
    total = rec + config.quantizer_weight * sum(output.losses.values())
    both = zip(config.adversaries.items(), discriminators, strict=True)
    active = [(*settings, network, share) for settings, (network, share) in both if share is not None]
    for suffix, adversarial, network, share in active:
        loss = generator_loss(adversarial.loss, network(output.x_BCHW))
        weight = torch.tensor(1.0)
        if adversarial.adaptive:
            last = generator.decoder.conv_out.weight
            norms = [torch.autograd.grad(each, last, retain_graph=True)[0].norm() for each in (rec, loss)]
            weight = (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
        total = total + adversarial.weight * share * weight * loss
        values |= {f"loss/adversarial{suffix}": loss.detach()}
    total.backward(inputs=[parameter for parameter in generator.parameters() if parameter.requires_grad])
    for suffix, adversarial, network, _ in active:
        values[f"loss/discriminator{suffix}"] = discriminator_step(adversarial, network, x_BCHW, output.x_BCHW)
    return {name: float(value) for name, value in values.items()}


def discriminator_step(config: AdversarialConfig, network: nn.Module, x_BCHW: Tensor, x_hat_BCHW: Tensor) -> Tensor:
    """Leave a discriminator's gradients; its loss without regularisers."""
    x = x_BCHW.detach().requires_grad_()
    x_hat = x_hat_BCHW.detach().requires_grad_()
    real, fake = network(x), network(x_hat)
    value = loss = discriminator_loss(config.loss, real, fake)
    if config.lecam:  # at the first step, when the averages are this batch's
        means = real.detach().mean(), fake.detach().mean()
        loss = loss + config.lecam * ((real - means[1]) ** 2).mean()
        loss = loss + config.lecam * ((fake - means[0]) ** 2).mean()
    for gamma, logits, samples in ((config.penalty, real, x), (config.penalty_fake, fake, x_hat)):
        (grad_x,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
        weight = gamma / 2 * config.penalty_every
        loss = loss + weight * sum(gradient.square().sum() for gradient in grad_x) / len(x)
    loss.backward()
    return value.detach()
