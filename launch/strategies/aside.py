"""Parts of a model that every rank keeps whole while a strategy shares out the rest: a codebook, say.

A weight that a forward writes into (moving averages, revived codes) can't be shared out: what is written into gathered
weights is lost. Such parts are small, and every rank does the same with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from launch.checkpoints.pieces import Piece
from launch.ranks.reduce import all_mean
from launch.run.schedule import descend

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's two averages of each weight's gradient."""


@contextlib.contextmanager
def without(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Inside, the model lacks these children, so that what shares it out doesn't see them."""
    children = dict(model._modules)
    for name in names:
        del model._modules[name]
    try:
        yield
    finally:
        model._modules.clear()
        model._modules.update(children)


class Aside:
    """Children of a model that stay whole, with an AdamW of their own that steps alike on every rank."""

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        make_optimizer: Callable[[nn.Module], torch.optim.AdamW],
        device: torch.device,
    ):
        self.children = {name: model.get_submodule(name).to(device) for name in names}
        self.trained = {
            f"{name}.{key}": weight
            for name, child in self.children.items()
            for key, weight in child.named_parameters()
            if weight.requires_grad
        }
        self.adamw = make_optimizer(nn.ModuleDict(self.children)) if self.trained else None
        if self.adamw is not None:
            fill_moments(self.adamw)
        self._read: dict[str, Tensor] = {}

    def average(self, scale: Tensor | None = None) -> Tensor:
        """Average the gradients over the ranks, and divide them by a loss scale; the square of their norm."""
        gradients = self._gradients()
        if not gradients:
            return torch.zeros(())
        mean = all_mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        mean = mean if scale is None else mean / scale
        for gradient, part in zip(gradients, mean.split([one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return mean.square().sum()

    def scale(self, factor: Tensor) -> None:
        """Multiply the gradients."""
        if gradients := self._gradients():
            torch._foreach_mul_(gradients, factor)

    def step(self, rate: float, good: Tensor) -> None:
        """One step, unless `good` is false; clear the gradients."""
        if self.adamw is not None:
            descend(self.adamw, rate, good)

    def moments(self, key: str) -> list[Piece]:
        """AdamW's averages."""
        kept = self.adamw.state if self.adamw is not None else {}
        return [
            Piece(f"{key}/{name}", tuple(weight.shape), 0, kept[weight][key].view(-1), everywhere=True)
            for name, weight in self.trained.items()
        ]

    def pieces(self) -> list[Piece]:
        """The whole state of these children; `loaded` must be called after something was written into it."""
        self._read = {
            f"{name}.{key}": tensor.detach()
            for name, child in self.children.items()
            for key, tensor in child.state_dict().items()
        }
        return [Piece(key, tuple(one.shape), 0, one.view(-1), everywhere=True) for key, one in self._read.items()]

    def loaded(self) -> None:
        """Take over what was written into the last `pieces`, counters of steps too."""
        self.load(self._read)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the children's state from a whole model's; training statistics may be missing."""
        for name, child in self.children.items():
            start = f"{name}."
            child.load_state_dict({key[len(start) :]: one for key, one in tensors.items() if key.startswith(start)})

    def _gradients(self) -> list[Tensor]:
        return [weight.grad for weight in self.trained.values() if weight.grad is not None]


def fill_moments(optimizer: torch.optim.AdamW) -> None:
    """Give every weight the state that AdamW's first step would: checkpoints can then be read into it at once."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            where = weight.device if group["fused"] else "cpu"
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=where),
                **{key: torch.zeros_like(weight, memory_format=torch.preserve_format) for key in MOMENTS},
            }
