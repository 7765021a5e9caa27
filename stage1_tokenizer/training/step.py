"""The stage-one step: gradients of tokenizer and discriminator from one forward of each.

All terms except the quantizer's losses reach the generator G through its reconstruction x̂, so their gradients are
computed at x̂, weighted there, and sent through G in one backward:

    x̂ = G(x);  x' = x̂ without its graph
    g_rec = Σ ∂(weighted term)/∂x'                one backward through each term (pixel, LPIPS, …)
    for each discriminator D:
        g_adv = ∂(adversarial)/∂x'                one forward of D and one backward to its input; the graph is kept
        weight = ‖g_rec → last layer‖ / (‖g_adv → last layer‖ + 1e-4)
    with an alignment, f = projected features of G's forward, f' = f without its graph:
        g_sem = ∂(weighted alignment)/∂f', times ‖g_rec → encoder's last layer‖ / ‖g_sem → that‖ where it is adaptive
    backward of ⟨x̂, g_rec + Σ weight·g_adv⟩ + ⟨f, g_sem⟩ + the quantizer's losses          gives G's gradients
    backward of each D's loss from D(x) and the logits of x' already there    gives D's gradients

With feature matching D(x) comes before D(x'), as its features are the target of a term of D's; each is still computed
once. With a balance, weights are shares of the gradient at x' (`balance.py`), and no last layer is needed. Samples of
different lengths are followed by zeros: x̂ is set to zero where x is, for all terms and discriminators.

A test holds this equal to the form of the paper. Legend: B batch, C channels, H W pixels, h w latent grid.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from stage1_tokenizer.discriminators.verdict import Verdict, verdict_of
from stage1_tokenizer.discriminators.weight_norms import advance
from stage1_tokenizer.layers.precision import at_least_float32
from stage1_tokenizer.losses.adversarial import encoder_ratio
from stage1_tokenizer.losses.semantic import SemanticTerm
from stage1_tokenizer.losses.term import Term
from stage1_tokenizer.networks.build import Decoder
from stage1_tokenizer.quantizers.base import Perturbed
from stage1_tokenizer.tokenizer.codec import Reconstruction
from stage1_tokenizer.training.adversary import FAKE, FAKE_AGAIN, REAL, REAL_AGAIN, Adversary
from stage1_tokenizer.training.balance import Balance, Pull
from stage1_tokenizer.training.loss_scale import LossScale


@dataclass
class StepResult:
    """What one step leaves besides gradients; all of it detached, on the device."""

    metrics: dict[str, Tensor]
    """Scalars by name: loss/<term>, loss/<quantizer's>, loss/adversarial, loss/discriminator, gan/…"""
    codes_Bhw: Tensor | None
    trained: list[bool]
    """For each discriminator, whether it has gradients: step its optimizer only then."""


@dataclass
class _Judged:
    """A discriminator in the midst of a step."""

    adversary: Adversary
    network: nn.Module
    x_BCHW: Tensor
    """The real samples, which require a gradient in steps with a penalty on them."""
    fake: Verdict
    """Of x', with its graph."""
    real: Verdict | None
    """Of x, with its graph, where it was needed already."""


class OneForwardStep:
    """Computes the gradients of one step; the caller zeroes them before, clips and steps the optimizers after.

    `terms` are the terms at the reconstruction, `adversaries` the discriminators' parts. Generator and discriminators
    may be wrapped, or shared out between ranks. `generator(x)` returns a Reconstruction and, unwrapped, has
    `decoder.last_layer`. `autocast` opens the mixed-precision region for their forwards (accelerator.autocast);
    `backward` is called once for each of them, with its loss and the network; `advance` prepares a discriminator's
    weights for a step. With `micro_batch`, the generator and the terms process at most so many samples at a time; all
    that looks at the batch as a whole (quantizer, discriminators, adaptive weights) still does, so the gradients are
    the same. With `scale`, all gradients are left multiplied by it; with `balance`, weights are shares of gradients.
    `semantic` is a term at the generator's projected features, outside any balance.
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
        balance: Balance | None = None,
        semantic: SemanticTerm | None = None,
    ):
        self.terms = list(terms)
        self.adversaries = list(adversaries)
        self.quantizer_weight = quantizer_weight
        self.autocast = autocast
        self.backward = backward
        self.advance = advance
        self.micro_batch = micro_batch
        self.scale = scale
        self.balance = balance
        self.semantic = semantic

    @property
    def every_term(self) -> list[Term]:
        """The terms at the reconstruction, and the alignment, if there is one."""
        return self.terms if self.semantic is None else [*self.terms, self.semantic]

    def __call__(
        self,
        generator: nn.Module,
        discriminators: Sequence[nn.Module],
        x_BCHW: Tensor,
        step: int,
        valid: Tensor | None = None,
        codes_Bhw: Tensor | None = None,
        perturbed: Perturbed | None = None,
    ) -> StepResult:
        """Leave the gradients of this batch in the parameters of all networks.

        x_BCHW is this rank's part of the batch, in [-1, 1]. There is one discriminator for each adversary; as long as
        none has started, `discriminators` may be empty, else ValueError. `valid` is 1 in samples and 0 beyond their
        ends, where x is 0; None: they have no ends. x̂ is decoded from `codes_Bhw`, where they are given, and of the
        `perturbed` samples from other codes than theirs.
        """
        ramps = [adversary.ramp(step) for adversary in self.adversaries]
        if len(discriminators) != len(self.adversaries) and any(ramps):
            raise ValueError(f"the step needs {len(self.adversaries)} discriminators, not {len(discriminators)}")
        with self.autocast():
            output: Reconstruction = generator(x_BCHW, self.micro_batch, codes_Bhw, perturbed)
        x_hat = at_least_float32(output.x_BCHW)
        if valid is not None:
            x_hat = x_hat * valid
        leaf = x_hat.detach().requires_grad_()
        pulls, metrics = self._reconstruction(leaf, x_BCHW)
        grad_rec = grad_x = _sum([pull.gradient for pull in pulls.values()], leaf)
        started = []
        for adversary, network, ramp in zip(self.adversaries, discriminators, ramps, strict=False):
            if ramp is None:
                continue
            judged = self._judge(adversary, network, leaf, x_BCHW, step)
            losses = self._losses(judged)
            metrics |= {name: loss.detach() for name, loss in adversary.named(losses).items()}
            if self.balance is not None:
                pulls |= self._pulls(adversary, losses, leaf, ramp)
            else:
                layer = cast(Decoder, unwrapped(generator).decoder).last_layer if adversary.config.adaptive else None
                weigh = partial(adversary.weight, layer, output.features_BCHW, grad_rec)
                gradient, weight = self._weighted(adversary, losses, leaf, ramp, weigh)
                grad_x = grad_x + gradient
                metrics |= adversary.named({"gan/weight": weight})
            started.append(judged)
        if self.balance is not None and (weighted := {name: pull for name, pull in pulls.items() if pull.within}):
            grad_x, norms = self.balance(weighted)
            metrics |= norms
        quantizer = sum(output.losses.values(), x_hat.new_zeros(()))
        pulled = (x_hat * grad_x).sum() + self.quantizer_weight * quantizer
        if self.semantic is not None:
            aligned, found = self._align(self.semantic, generator, output, x_BCHW, grad_rec)
            pulled, metrics = pulled + aligned, metrics | found
        self.backward(self._scaled(pulled), generator)
        metrics |= {f"loss/{name}": value.detach() for name, value in output.losses.items()}
        for judged in started:
            metrics |= self._discriminate(judged, leaf, step)
        return StepResult(metrics, output.codes_Bhw, [ramp is not None for ramp in ramps])

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss * self.scale.value if self.scale else loss

    def _reconstruction(self, leaf: Tensor, x_BCHW: Tensor) -> tuple[dict[str, Pull], dict[str, Tensor]]:
        """Each term's weighted gradient at x', and its value."""
        metrics: dict[str, Tensor] = {}
        pulls = {}
        for term in self.terms:
            metrics[f"loss/{term.name}"], gradient = term.at(leaf, x_BCHW, self.micro_batch)
            pulls[term.name] = Pull(gradient, term.weight, term.weight)
        return pulls, metrics

    def _align(
        self, term: SemanticTerm, generator: nn.Module, output: Reconstruction, x_BCHW: Tensor, grad_rec: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What brings the gradient of the alignment into the generator, and what is logged of it."""
        assert output.aligned_BNE is not None
        features = at_least_float32(output.aligned_BNE)
        value, gradient = term.at(features, x_BCHW, self.micro_batch)
        metrics = {f"loss/{term.name}": value}
        if term.config.adaptive:
            layer = cast(Any, unwrapped(generator).encoder).conv_out
            both = [(at_least_float32(output.x_BCHW), grad_rec), (features, gradient / term.weight)]
            ratio = encoder_ratio(layer, [(tensor, self._scaled(grad)) for tensor, grad in both])
            gradient, metrics["semantic/weight"] = gradient * ratio, term.weight * ratio
        return (features * gradient).sum(), metrics

    def _judge(self, adversary: Adversary, network: nn.Module, leaf: Tensor, x_BCHW: Tensor, step: int) -> _Judged:
        """What a discriminator says of x' and, with feature matching, of x before."""
        self.advance(network)
        if adversary.config.penalty and adversary.penalised(step):
            x_BCHW = x_BCHW.detach().requires_grad_()
        real = self._verdict(network, adversary.seen(x_BCHW, step, REAL)) if adversary.config.feature_matching else None
        fake = self._verdict(unwrapped(network), adversary.seen(leaf, step, FAKE))
        return _Judged(adversary, network, x_BCHW, fake, real)

    def _verdict(self, network: nn.Module, x_BCHW: Tensor) -> Verdict:
        with self.autocast():
            return verdict_of(network(x_BCHW))

    def _losses(self, judged: _Judged) -> dict[str, Tensor]:
        """The terms of a discriminator, by their names in the log."""
        losses = {"loss/adversarial": judged.adversary.generator_loss(judged.fake)}
        if judged.real is not None:
            losses["loss/feature_matching"] = judged.adversary.feature_distance(judged.fake, judged.real)
        return losses

    def _weighted(
        self,
        adversary: Adversary,
        losses: dict[str, Tensor],
        leaf: Tensor,
        ramp: float | Tensor,
        weigh: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The weighted gradient at x' of a discriminator's terms, and the weight of the adversarial one.

        With a weight that doesn't depend on the gradient, one backward is for both terms.
        """
        adversarial, features = losses["loss/adversarial"], losses.get("loss/feature_matching")
        matching = None if features is None else ramp * adversary.config.feature_matching * features
        if matching is not None and not adversary.config.adaptive:
            weight = ramp * weigh(leaf)
            return self._gradient(weight * adversarial + matching, leaf), weight
        grad_adv = self._gradient(adversarial, leaf)
        weight = ramp * weigh(grad_adv)
        gradient = weight * grad_adv
        return gradient if matching is None else gradient + self._gradient(matching, leaf), weight

    def _pulls(
        self, adversary: Adversary, losses: dict[str, Tensor], leaf: Tensor, ramp: float | Tensor
    ) -> dict[str, Pull]:
        """A discriminator's terms for the balance."""
        weights = {"adversarial": adversary.config.weight, "feature_matching": adversary.config.feature_matching}
        return {
            name + adversary.suffix: Pull(self._gradient(losses[f"loss/{name}"], leaf), 1.0, ramp * weight)
            for name, weight in weights.items()
            if f"loss/{name}" in losses
        }

    def _gradient(self, loss: Tensor, leaf: Tensor) -> Tensor:
        """The gradient at x'; the graph is kept."""
        (gradient,) = torch.autograd.grad(self._scaled(loss), leaf, retain_graph=True)
        return gradient / self.scale.value if self.scale else gradient

    def _discriminate(self, judged: _Judged, leaf: Tensor, step: int) -> dict[str, Tensor]:
        """Leave a discriminator's gradients, from what it said of x', and of x."""
        adversary, network, real = judged.adversary, judged.network, judged.real
        if real is None:
            real = self._verdict(network, adversary.seen(judged.x_BCHW, step, REAL))
        loss, metrics = adversary.loss(real, judged.fake, judged.x_BCHW, leaf, step)
        if adversary.config.consistency:
            pairs = ((real, judged.x_BCHW, REAL_AGAIN), (judged.fake, leaf, FAKE_AGAIN))
            again = [
                (verdict, self._verdict(unwrapped(network), adversary.seen(samples.detach(), step, draw)))
                for verdict, samples, draw in pairs
            ]
            apart = adversary.consistency(again)
            loss, metrics = loss + adversary.config.consistency * apart, {**metrics, "gan/consistency": apart.detach()}
        self.backward(self._scaled(loss), network)
        return adversary.named(metrics)


def _sum(gradients: Sequence[Tensor], like: Tensor) -> Tensor:
    """Their sum, in order; zeros like x' if there are none."""
    return sum(gradients[1:], gradients[0]) if gradients else torch.zeros_like(like)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside a wrapper such as DDP, whose own forward would prepare a gradient reduction."""
    return getattr(module, "module", module)
