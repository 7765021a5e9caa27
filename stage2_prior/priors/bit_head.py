"""Masked bit modelling: the bits of a code, some of them masked, through a few layers that one output conditions.

    x = W·[e_1(b_1), …, e_L(b_L)], b in 0, 1, masked        c = SiLU(P·y + s(number of masked bits))
    x = x + g(c)·SwiGLU((1 + a(c))·norm(x) + d(c))           logits = V·((1 + a'(c))·norm(x) + d'(c))

As in BAR (Yu et al. 2026) the layers see all bits as one vector, and norms and branches are conditioned as in DiT with
branches that start at 0; the share of masked bits enters by a learned vector for each of the L + 1 numbers there are,
theirs by Fourier features. The output starts at 0: every bit at ln 2.

Shapes: X any axes of codes, L bits, Y features of the output y, D width of the head, F inner width.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from launch.checkpoints.names import unwrapped
from launch.command.cli import UserError, reason
from stage2_prior.codes.factors import numbers
from stage2_prior.generation.bits import MASKED

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class BitLayer(nn.Module):
    """A residual SwiGLU layer with a conditioned norm and a conditioned branch."""

    def __init__(self, width: int):
        super().__init__()
        inner = -(-8 * width // 96) * 32
        self.conditioned = nn.Linear(width, 3 * width)
        self.gated, self.down = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        for weight in self.conditioned.parameters():
            nn.init.zeros_(weight)

    def forward(self, x_XD: Tensor, c_XD: Tensor) -> Tensor:
        """The layer's output, x_XD."""
        scale_XD, shift_XD, gate_XD = self.conditioned(c_XD).chunk(3, dim=-1)
        gate_XF, up_XF = self.gated(modulated(x_XD, scale_XD, shift_XD)).chunk(2, dim=-1)
        return x_XD + gate_XD * self.down(F.silu(gate_XF) * up_XF)


class BitHead(nn.Module):
    """Logits of the bits of codes, given an output about each code and the bits that aren't masked."""

    def __init__(self, bits: int, features: int, width: int, layers: int):
        """For codes of L = `bits`; `features` are Y."""
        super().__init__()
        each = -(-width // bits)
        self.described = {"bits": bits, "features": features, "width": width, "layers": layers}
        self.config = SimpleNamespace(tie_word_embeddings=False, num_hidden_layers=0, hidden_size=width)
        """As the cost of a transformer is counted: none of it is attention."""
        self.embedding, self.enter = nn.Embedding(3 * bits, each), nn.Linear(bits * each, width)
        self.condition, self.masked = nn.Linear(features, width), nn.Embedding(bits + 1, width)
        self.layers = nn.ModuleList(BitLayer(width) for _ in range(layers))
        self.conditioned, self.leave = nn.Linear(width, 2 * width), nn.Linear(width, 2 * bits)
        nn.init.normal_(self.masked.weight, std=0.02)
        for weight in (*self.conditioned.parameters(), *self.leave.parameters()):
            nn.init.zeros_(weight)

    def forward(self, y_XY: Tensor, bit_XL: Tensor) -> Tensor:
        """Logits of 0 and 1 of each bit, logits_XL2 float32; bit_XL is 0, 1, or MASKED."""
        first_L = numbers(range(0, self.embedding.num_embeddings, 3), bit_XL.device)
        x_XD = self.enter(self.embedding(bit_XL + first_L).flatten(-2))
        c_XD = F.silu(self.condition(y_XY) + self.masked((bit_XL == MASKED).sum(-1)))
        for layer in self.layers:
            x_XD = layer(x_XD, c_XD)
        logits_XO: Tensor = self.leave(modulated(x_XD, *self.conditioned(c_XD).chunk(2, dim=-1)))
        return logits_XO.unflatten(-1, (-1, 2)).float()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(self.described, indent=1) + "\n")
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The head that `save_pretrained` wrote; UserError if it can't be read."""
        folder = Path(folder)
        try:
            described: dict[str, Any] = json.loads((folder / CONFIG).read_text())
            head = cls(**described)
            head.load_state_dict(unwrapped(load_file(folder / WEIGHTS), str(folder / WEIGHTS)))
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{folder} can't be read ({reason(error)}): export the prior again") from error
        return head


def modulated(x_XD: Tensor, scale_XD: Tensor, shift_XD: Tensor) -> Tensor:
    """A normed tensor, scaled by 1 + scale and shifted."""
    return F.rms_norm(x_XD, x_XD.shape[-1:]) * (1 + scale_XD) + shift_XD
