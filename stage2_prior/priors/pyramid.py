"""The multiscale prior's inputs: the latents decoded so far, as the tokenizer sums them, resized to the next scale.

Shapes: B batch, N codes of all scales, M codes of one, D width, E the tokenizer's code dimension, h w its latent grid.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from launch.checkpoints.names import unwrapped
from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.quantizers import MultiscaleQuantizer
from stage1_tokenizer.tokenizer.folder import built

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Pyramid(nn.Module):
    """Embeddings of all places of all scales: of the latents of the coarser scales' codes, and of the place.

    It has a copy of the tokenizer's codebook and convolutions, which isn't trained: they are buffers.
    """

    scale_N: Tensor
    """Each place's scale."""

    def __init__(self, quantizer: MultiscaleQuantizer, width: int):
        """A copy of `quantizer`, and fresh weights for a transformer of `width`."""
        super().__init__()
        self.quantizer = frozen(quantizer)
        self.sizes = [side**2 for side in quantizer.scales]
        repeats = torch.tensor(self.sizes)
        scale_N = torch.arange(len(repeats)).repeat_interleave(repeats, output_size=sum(self.sizes))
        self.register_buffer("scale_N", scale_N, persistent=False)
        self.project = nn.Linear(quantizer.latent_channels, width)
        self.place = nn.Embedding(sum(self.sizes), width)
        nn.init.normal_(self.place.weight, std=0.02)

    def forward(self, code_BN: Tensor) -> Tensor:
        """x_BND for every place; those of a scale depend on the codes of coarser scales only."""
        return self.embedded(self.seen(code_BN), len(code_BN))

    def seen(self, code_BN: Tensor) -> list[Tensor]:
        """The latents that each scale but the first sees: of all coarser ones, resized to it; without gradients."""
        total, seen = torch.zeros((), device=code_BN.device), []
        for number, idx_BM in enumerate(code_BN.split(self.sizes, dim=1)[:-1]):
            total = self.add(total, number, idx_BM)
            seen.append(self.resized(total, number + 1))
        return seen

    def embedded(self, seen: Sequence[Tensor], batch: int) -> Tensor:
        """x_BND of what `seen` gives."""
        return torch.cat([self._at(one, number, batch) for number, one in enumerate([None, *seen])], dim=1)

    @torch.no_grad()
    def add(self, total_BEhw: Tensor, number: int, idx_BM: Tensor) -> Tensor:
        """The latents with one more scale's codes added; 0 before the first."""
        with torch.autocast(idx_BM.device.type, enabled=False):
            return self.quantizer.add_scale(total_BEhw, number, idx_BM)

    def at(self, total_BEhw: Tensor | None, number: int, batch: int) -> Tensor:
        """x_BMD of one scale's places, from the latents of all coarser ones (None: there are none)."""
        return self._at(None if total_BEhw is None else self.resized(total_BEhw, number), number, batch)

    def resized(self, total_BEhw: Tensor, number: int) -> Tensor:
        """Latents at the size of a scale, (B, E, s, s)."""
        side = self.quantizer.scales[number]
        return F.interpolate(total_BEhw, size=(side, side), mode="area")

    def _at(self, seen_BEss: Tensor | None, number: int, batch: int) -> Tensor:
        first = sum(self.sizes[:number])
        place_M = torch.arange(first, first + self.sizes[number], device=self.project.weight.device)
        x_1MD = self.place(place_M)[None]
        if seen_BEss is None:
            return x_1MD.expand(batch, -1, -1)
        return self.project(seen_BEss.flatten(2).transpose(1, 2).to(self.project.weight.dtype)) + x_1MD

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json (the quantizer's settings) and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"quantizer": asdict(self.quantizer.config), "width": self.project.out_features}
        (folder / CONFIG).write_text(json.dumps(settings, indent=1) + "\n")
        kept = {name: value for name, value in self.state_dict().items() if ".statistics." not in name}
        save_file({name: value.cpu().contiguous() for name, value in kept.items()}, folder / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """The pyramid that `save_pretrained` wrote."""
        settings = json.loads((folder / CONFIG).read_text())
        pyramid = cls(MultiscaleQuantizer(built(QuantizerConfig, settings["quantizer"])), settings["width"])
        pyramid.load_state_dict(unwrapped(load_file(folder / WEIGHTS), str(folder / WEIGHTS)))
        return pyramid


def frozen(quantizer: MultiscaleQuantizer) -> MultiscaleQuantizer:
    """A copy in evaluation mode whose parameters are buffers, so that no optimizer trains them."""
    quantizer = copy.deepcopy(quantizer).eval()
    for module in quantizer.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, weight.detach())
    return quantizer
