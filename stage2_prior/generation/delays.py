"""Codes of several codebooks in steps, those of some codebooks later than others. (Copet et al. 2023, section 2.2)

With delays d_g, step s has the code of codebook g at place s - d_g; where there is no such place, it has none. Without
delays the steps are the places.

Shapes: B batch, P places, G codebooks, S = P + max d steps; "..." are further axes, or none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from launch.command.cli import UserError


class Delays:
    """How many steps later each codebook's codes come."""

    def __init__(self, steps_G: Sequence[int], places: int):
        """`steps_G` has a number for each codebook."""
        self.steps_G, self.places = tuple(steps_G), places

    @property
    def steps(self) -> int:
        """S, the number of steps."""
        return self.places + max(self.steps_G)

    def __bool__(self) -> bool:
        """Whether anything is delayed."""
        return any(self.steps_G)

    def there(self, device: torch.device) -> Tensor:
        """Whether a step has a code of each codebook, there_SG bool."""
        place_SG = self._place(device)
        return (place_SG >= 0) & (place_SG < self.places)

    def at(self, step: int, book: int) -> bool:
        """Whether a step has a code of a codebook."""
        return 0 <= step - self.steps_G[book] < self.places

    def spread(self, x_BPG: Tensor, fill: float) -> Tensor:
        """What belongs to codes, x_BPG…, by their steps, x_BSG…; `fill` where there is no code."""
        if not self:
            return x_BPG
        place_SG, book_G = self._place(x_BPG.device), torch.arange(len(self.steps_G), device=x_BPG.device)
        x_BSG = x_BPG[:, place_SG.clamp(0, self.places - 1), book_G]
        there_SG = self.there(x_BPG.device)
        return x_BSG.masked_fill(~there_SG.view(*there_SG.shape, *[1] * (x_BSG.ndim - 3)), fill)

    def gathered(self, x_BSG: Tensor) -> Tensor:
        """What belongs to steps and codebooks, x_BSG…, by the codes, x_BPG…: undoes `spread`."""
        if not self:
            return x_BSG
        return x_BSG[:, self._step(x_BSG.device), torch.arange(len(self.steps_G), device=x_BSG.device)]

    def of_steps(self, y_BSD: Tensor) -> Tensor:
        """What belongs to steps alone, y_BSD, by the codes, y_BPGD."""
        return y_BSD[:, self._step(y_BSD.device)]

    def _place(self, device: torch.device) -> Tensor:
        """The place of each step's codes, place_SG, outside of [0, P) where there is none."""
        return torch.arange(self.steps, device=device)[:, None] - self._delay(device)

    def _step(self, device: torch.device) -> Tensor:
        """The step of each place's codes, step_PG."""
        return torch.arange(self.places, device=device)[:, None] + self._delay(device)

    def _delay(self, device: torch.device) -> Tensor:
        """The delays, delay_G, made on the device: a copy from the host would make it wait."""
        return torch.cat([torch.full((1,), steps, device=device) for steps in self.steps_G])


def checked(delays: Sequence[int], codebooks: int) -> Sequence[int]:
    """The configured delays; UserError where there isn't one for each codebook."""
    if len(delays) != codebooks:
        raise UserError(
            f"model.delays={list(delays)} has {len(delays)} numbers, but the codes are of {codebooks} codebooks: give "
            "one for each"
        )
    return delays
