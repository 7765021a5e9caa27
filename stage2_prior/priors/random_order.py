"""Random orders of the codes in training, which give way to rows: randomised autoregressive training.

Yu et al. 2024 (RAR) train with a random order for each sample with a probability r that falls from 1 to 0, so that the
prior has seen every code from all sides before it settles on rows; an embedding tells where the next code lies. Here
that embedding enters as the difference aim(place of the next code) - aim(place after this token), which is 0 in rows:
what is trained at last is exactly the stock model, and the embedding is not part of it.

Shapes: B batch, N codes, T = N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Aim(nn.Module):
    """Which sample comes in which order, and the embedding of where the next code lies."""

    def __init__(self, positions: int, width: int, anneal_from: float, anneal_until: float):
        """For N positions of codes; random orders give way from one share of the steps to the other."""
        super().__init__()
        self.positions, self.anneal_from, self.anneal_until = positions, anneal_from, anneal_until
        self.embedding = nn.Embedding(positions + 1, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.random_share = 1.0

    def set_progress(self, done: float) -> None:
        """The probability r of a random order once this share of the steps is done."""
        if done < self.anneal_from:
            self.random_share = 1.0
        elif done >= self.anneal_until:
            self.random_share = 0.0
        else:
            self.random_share = (self.anneal_until - done) / (self.anneal_until - self.anneal_from)

    def orders(self, uniform_BT: Tensor) -> Tensor:
        """Places of the codes in the order in which each sample's come, place_BN int64.

        The uniform numbers decide: the first N of each sample its order, the last one whether it is used.
        """
        random_BN = uniform_BT[:, : self.positions].argsort(1)
        chosen_B1 = uniform_BT[:, self.positions :] < self.random_share
        return torch.where(chosen_B1, random_BN, torch.arange(self.positions, device=uniform_BT.device))

    def forward(self, at_BT: Tensor, place_BT: Tensor) -> Tensor:
        """What is added to the tokens' embeddings, x_BTD; at_BT is 1 + each token's place, 0 for the class token."""
        return self.embedding(place_BT) - self.embedding(at_BT)
