"""The stage-one step: gradients of tokenizer and discriminator from one forward of each.

All terms except the quantizer's losses reach the generator G through its reconstruction x̂, so their gradients are
computed at x̂, weighted there, and sent through G in one backward:

    x̂ = G(x);  x' = x̂ without its graph
    g_rec = Σ ∂(weighted term)/∂x'                one backward through each term (pixel, LPIPS, …)
    for each discriminator D:
        g_adv = ∂(adversarial)/∂x'                one forward of D and one backward to its input; the graph is kept
        weight = ‖g_rec → last layer‖ / (‖g_adv → last layer‖ + 1e-4)
    backward of ⟨x̂, g_rec + Σ weight·g_adv⟩ + the quantizer's losses          gives G's gradients
    backward of each D's loss from D(x) and the logits of x' already there    gives D's gradients

A test holds this equal to the form of the paper. Legend: B batch, C channels, H W pixels, h w latent grid.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from stage1_tokenizer.discriminators.weight_norms import advance
from stage1_tokenizer.layers.precision import at_least_float32
from stage1_tokenizer.losses.adversarial import generator_loss
from stage1_tokenizer.losses.term import Term
from stage1_tokenizer.networks.build import Decoder
from stage1_tokenizer.tokenizer.codec import Reconstruction
from stage1_tokenizer.training.adversary import Adversary
from stage1_tokenizer.training.loss_scale import LossScale


@dataclass
class StepResult:
    """What one step leaves besides gradients; all of it detached, on the device."""

    metrics: dict[str, Tensor]
    """Scalars by name: loss/<term>, loss/<quantizer's>, loss/adversarial, loss/discriminator, gan/…"""
    codes_Bhw: Tensor | None
    trained: list[bool]
    """For each discriminator, whether it has gradients: step its optimizer only then."""


class OneForwardStep:
    """Computes the gradients of one step; the caller zeroes them before, clips and steps the optimizers after.

    `terms` are the terms at the reconstruction, `adversaries` the discriminators' parts. Generator and discriminators
    may be wrapped, or shared out between ranks. `generator(x)` returns a Reconstruction and, unwrapped, has
    `decoder.last_layer`. `autocast` opens the mixed-precision region for their forwards (accelerator.autocast);
    `backward` is called once for each of them, with its loss and the network; `advance` prepares a discriminator's
    weights for a step. With `micro_batch`, the generator and the terms process at most so many samples at a time; all
    that looks at the batch as a whole (quantizer, discriminators, adaptive weights) still does, so the gradients are
    the same. With `scale`, all gradients are left multiplied by it.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        adversaries: Sequence[Adversary] = (),
        *,
        quantizer_weight: float = 1.0,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        backward: Callable[[Tensor, nn.Module], None] = lambda loss, network: loss.backward(),
        advance: Callable[[nn.Module], None] = lambda network: advance(unwrapped(network)),
        micro_batch: int | None = None,
        scale: LossScale | None = None,
    ):
        self.terms = list(terms)
        self.adversaries = list(adversaries)
        self.quantizer_weight = quantizer_weight
        self.autocast = autocast
        self.backward = backward
        self.advance = advance
        self.micro_batch = micro_batch
        self.scale = scale

    def __call__(
        self, generator: nn.Module, discriminators: Sequence[nn.Module], x_BCHW: Tensor, step: int
    ) -> StepResult:
        """Leave the gradients of this batch in the parameters of all networks.

        x_BCHW is this rank's part of the batch, in [-1, 1]. There is one discriminator for each adversary; as long as
        none has started, `discriminators` may be empty, else ValueError.
        """
        ramps = [adversary.ramp(step) for adversary in self.adversaries]
        if len(discriminators) != len(self.adversaries) and any(ramps):
            raise ValueError(f"the step needs {len(self.adversaries)} discriminators, not {len(discriminators)}")
        with self.autocast():
            output: Reconstruction = generator(x_BCHW, self.micro_batch)
        x_hat = at_least_float32(output.x_BCHW)
        leaf = x_hat.detach().requires_grad_()
        grad_rec, metrics = self._reconstruction(leaf, x_BCHW)
        last_layer = cast(Decoder, unwrapped(generator).decoder).last_layer
        grad_x, started = grad_rec, []
        for adversary, network, ramp in zip(self.adversaries, discriminators, ramps, strict=False):
            if ramp is None:
                continue
            fake, loss, grad_adv = self._adversarial(adversary, network, leaf)
            weight = ramp * adversary.weight(last_layer, output.features_BCHW, grad_rec, grad_adv)
            grad_x = grad_x + weight * grad_adv
            metrics |= adversary.named({"loss/adversarial": loss, "gan/weight": weight})
            started.append((adversary, network, fake))
        quantizer = sum(output.losses.values(), x_hat.new_zeros(()))
        self.backward(self._scaled((x_hat * grad_x).sum() + self.quantizer_weight * quantizer), generator)
        metrics |= {f"loss/{name}": value.detach() for name, value in output.losses.items()}
        for adversary, network, fake in started:
            metrics |= self._discriminate(adversary, network, fake, x_BCHW, leaf, step)
        return StepResult(metrics, output.codes_Bhw, [ramp is not None for ramp in ramps])

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss * self.scale.value if self.scale else loss

    def _reconstruction(self, leaf: Tensor, x_BCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the terms' gradients at x', and each term's value."""
        metrics: dict[str, Tensor] = {}
        grad_rec = None
        for term in self.terms:
            metrics[f"loss/{term.name}"], gradient = term.at(leaf, x_BCHW, self.micro_batch)
            grad_rec = gradient if grad_rec is None else grad_rec + gradient
        return torch.zeros_like(leaf) if grad_rec is None else grad_rec, metrics

    def _adversarial(self, adversary: Adversary, network: nn.Module, leaf: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits of x' with their graph, the generator's loss, and its gradient at x'."""
        self.advance(network)
        with self.autocast():
            fake = unwrapped(network)(leaf)
        loss = generator_loss(adversary.config.loss, fake)
        (grad_adv,) = torch.autograd.grad(self._scaled(loss), leaf, retain_graph=True)
        return fake, loss.detach(), grad_adv / self.scale.value if self.scale else grad_adv

    def _discriminate(
        self, adversary: Adversary, network: nn.Module, fake: Tensor, x_BCHW: Tensor, leaf: Tensor, step: int
    ) -> dict[str, Tensor]:
        """Leave a discriminator's gradients, from its logits of x', `fake`, and of x."""
        if adversary.config.penalty and adversary.penalised(step):
            x_BCHW = x_BCHW.detach().requires_grad_()
        with self.autocast():
            real = network(x_BCHW)
        loss, metrics = adversary.loss(real, fake, x_BCHW, leaf, step)
        self.backward(self._scaled(loss), network)
        return adversary.named(metrics)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside a wrapper such as DDP, whose own forward would prepare a gradient reduction."""
    return getattr(module, "module", module)
