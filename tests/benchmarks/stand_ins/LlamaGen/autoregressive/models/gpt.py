from dataclasses import dataclass

from torch import nn
from torch.nn import functional as F


@dataclass
class ModelArgs:
    dim: int
    n_layer: int
    n_head: int
    multiple_of: int
    num_classes: int
    vocab_size: int
    block_size: int


class Transformer(nn.Module):
    """Each code from the one before it."""

    def __init__(self, config):
        super().__init__()
        self.cls_embedding = nn.Embedding(config.num_classes, config.dim)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.output = nn.Linear(config.dim, config.vocab_size)
        self.layers = nn.ModuleList()

    def forward(self, idx, cond_idx, input_pos=None, targets=None):
        before = F.pad(self.tok_embeddings(idx), (0, 0, 1, 0)) + self.cls_embedding(cond_idx)[:, None]
        logits = self.output(before)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
