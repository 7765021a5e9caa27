"""A term of stage one's loss: its value and its gradient at the reconstruction x̂."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from launch.command.cli import UserError


class Term(nn.Module):
    """A term that reaches the generator through the reconstruction alone.

    A subclass has `name` (it is logged as loss/NAME), sets `weight`, and gives its value, a scalar, in `forward`; it
    overrides `at` only where it wants to compute the gradient in another way. It has no trainable parameters.
    """

    name: str
    """What it is called in the log and in the configuration."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, x_hat_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """The value, without the weight: a mean over the batch."""
        raise NotImplementedError

    def at(self, x_hat_BCHW: Tensor, x_BCHW: Tensor, micro_batch: int | None = None) -> tuple[Tensor, Tensor]:
        """The value, and the gradient of weight · value at x̂; neither has a graph.

        With `micro_batch`, a term that is a mean over samples may look at so many at a time, to save memory.
        """
        leaf = x_hat_BCHW.detach().requires_grad_()
        value = self(leaf, x_BCHW)
        (gradient,) = torch.autograd.grad(self.weight * value, leaf)
        return value.detach(), gradient

    def settle(self, device: torch.device, precision: str) -> str:
        """Choose what depends on the run's device, where the term is by now, and run.precision; a line for the log."""
        return ""


def further_terms(settings: Mapping[str, Any], table: Mapping[str, Callable[..., Term]]) -> list[Term]:
    """The terms that loss.terms names, each with a weight or with its settings; those with weight 0 are left out.

    Raises UserError for a name that isn't in the table, and for settings that its class doesn't take.
    """
    terms = []
    for name, given in settings.items():
        if name not in table:
            known = ", ".join(sorted(table)) or "there are none for this kind of data"
            raise UserError(f"loss.terms.{name} is unknown ({known}): remove it")
        try:
            term = table[name](**given if isinstance(given, dict) else {"weight": float(given)})
        except (TypeError, ValueError) as error:
            raise UserError(
                f"loss.terms.{name}={given} can't be used ({error}): give a weight, or its settings"
            ) from error
        if term.weight:
            terms.append(term)
    return terms
