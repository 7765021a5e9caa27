"""Random orders of the codes in training, annealed to raster order: randomised autoregressive training.

Yu et al. 2024 (RAR) train each sample in a random order with a probability r that decreases from 1 to 0, so that the
prior learns context from all sides before it settles on raster order; an embedding gives the next code's place. Here
that embedding enters as the difference aim(place of the next code) - aim(place after this token), which is 0 in raster
order: training ends with exactly the stock model, and the embedding is not exported.

Shapes: B batch, N codes, T = N tokens, D width.
"""

import torch
from torch import Tensor, nn


class Aim(nn.Module):
    """The order of each sample, and the embedding of the next code's place."""

    def __init__(self, positions: int, width: int, anneal_from: float, anneal_until: float):
        """For N codes; the probability of random orders decreases between the two shares of the steps."""
        super().__init__()
        self.positions, self.anneal_from, self.anneal_until = positions, anneal_from, anneal_until
        self.embedding = nn.Embedding(positions + 1, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.random_share = 1.0

    def set_progress(self, done: float) -> None:
        """Set the probability r of a random order from the share of the steps that are done."""
        if done < self.anneal_from:
            self.random_share = 1.0
        elif done >= self.anneal_until:
            self.random_share = 0.0
        else:
            self.random_share = (self.anneal_until - done) / (self.anneal_until - self.anneal_from)

    def orders(self, uniform_BT: Tensor) -> Tensor:
        """Each sample's places in the order of its codes, place_BN int64.

        The first N uniform numbers of a sample decide its order, the last one whether it is used.
        """
        random_BN = uniform_BT[:, : self.positions].argsort(1)
        chosen_B1 = uniform_BT[:, self.positions :] < self.random_share
        return torch.where(chosen_B1, random_BN, torch.arange(self.positions, device=uniform_BT.device))

    def forward(self, at_BT: Tensor, place_BT: Tensor) -> Tensor:
        """The summand of the tokens' embeddings, x_BTD; at_BT is 1 + each token's place, 0 for the class token."""
        return self.embedding(place_BT) - self.embedding(at_BT)
