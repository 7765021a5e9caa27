"""A frozen vision transformer (Dosovitskiy et al. 2021) as DINO trained it, for what its layers say of pictures.

Width, depth and side of a patch follow from the weights, whose layout DINO's own files and timm's copies share.
Legend: B batch, C channels, H W pixels, h w grid of patches, N patches, T = N + 1 tokens, D width, E heads.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launch.command.cli import UserError
from stage1_tokenizer.layers.precision import at_least_float32

HEAD = 64
"""Channels of a head, in every DINO transformer."""

EPS = 1e-6
"""Of DINO's layer norms."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of pictures in [0, 1]."""

FIRST = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")

WAY = "give DINO's dino_deitsmall16_pretrain.pth, or a file of its layout"


def load_vit(file: str) -> FrozenViT:
    """The transformer of a .pth or .safetensors file. Raises UserError where it holds something else."""
    path = Path(file)
    if not path.is_file():
        raise UserError(f"loss.adversarial.weights={file} is not a file: {WAY}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return FrozenViT(load_file(path))
        return FrozenViT(torch.load(path, map_location="cpu", weights_only=True))
    except (
        pickle.UnpicklingError,
        LookupError,
        EOFError,
        RuntimeError,
        AttributeError,
        ValueError,
        TypeError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"loss.adversarial.weights={file} holds no vision transformer ({reason}): {WAY}") from error


class FrozenViT(nn.Module):
    """Tokens after some of the layers. Its weights are no parameters, and part of no state_dict()."""

    def __init__(self, weights: dict[str, Tensor]):
        """Raises KeyError or ValueError where `weights` lacks a tensor or holds one of another shape."""
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.cls_token: Tensor
        self.pos_embed: Tensor
        self.width, _, self.patch, _ = weights["patch_embed.proj.weight"].shape
        self.depth = sum(name.startswith("blocks.") and name.endswith(".norm1.weight") for name in weights)
        if self.width % HEAD or not self.depth:
            raise ValueError(f"width {self.width}, {self.depth} blocks")
        self.grid = round((weights["pos_embed"].shape[1] - 1) ** 0.5)
        blocks = [
            f"blocks.{n}.{part}.{kind}" for n in range(self.depth) for part in LAYERS for kind in ("weight", "bias")
        ]
        for name in (*FIRST, *blocks):
            self.register_buffer(name.replace(".", "_"), weights[name].float(), persistent=False)
        scale = torch.tensor(DEVIATION).view(1, 3, 1, 1) * 2
        shift = torch.tensor(MEAN).view(1, 3, 1, 1) * 2 - 1
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        with torch.no_grad():
            self(torch.zeros(1, 3, self.patch, self.patch), [])  # raises RuntimeError for shapes that don't fit

    def forward(self, x_BCHW: Tensor, after: list[int]) -> list[Tensor]:
        """The tokens h_BTD after the layers with these numbers; −1 stands for what enters the first.

        Pictures are in [-1, 1] with 1 or 3 channels and sides that `patch` divides, else ValueError. The first token
        is the class token.
        """
        if any(side % self.patch for side in x_BCHW.shape[2:]):
            raise ValueError(
                f"pictures of {tuple(x_BCHW.shape[2:])} are not whole patches of {self.patch}: set "
                f"loss.adversarial.resize to a multiple of {self.patch}"
            )
        h_BTD = self._embed((x_BCHW - self.shift) / self.scale)
        found = {-1: h_BTD}
        for number in range(self.depth):
            h_BTD = h_BTD + self._attend(number, h_BTD)
            h_BTD = h_BTD + self._perceptron(number, h_BTD)
            found[number] = h_BTD
        return [found[number] for number in after]

    def _embed(self, x_BCHW: Tensor) -> Tensor:
        h_BDhw = F.conv2d(x_BCHW, *self._pair("patch_embed_proj"), stride=self.patch)
        place_1Dhw = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        if h_BDhw.shape[2:] != place_1Dhw.shape[2:]:
            place_1Dhw = F.interpolate(place_1Dhw, h_BDhw.shape[2:], mode="bicubic")
        patches_BND = (at_least_float32(h_BDhw) + place_1Dhw).flatten(2).transpose(1, 2)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x_BCHW), -1, -1)
        return torch.cat([first, patches_BND], 1)

    def _attend(self, number: int, h_BTD: Tensor) -> Tensor:
        """Self-attention, spelt out: torch's fused kernels have no second derivative, which gradient penalties need."""
        both = self._linear(f"{number}_attn_qkv", self._norm(f"{number}_norm1", h_BTD))
        q_BETd, k_BETd, v_BETd = both.unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        share_BETT = (q_BETd @ k_BETd.transpose(2, 3) * HEAD**-0.5).softmax(-1)
        return self._linear(f"{number}_attn_proj", (share_BETT @ v_BETd).transpose(1, 2).flatten(2))

    def _perceptron(self, number: int, h_BTD: Tensor) -> Tensor:
        inner = self._linear(f"{number}_mlp_fc1", self._norm(f"{number}_norm2", h_BTD))
        return self._linear(f"{number}_mlp_fc2", F.gelu(inner))

    def _linear(self, name: str, h: Tensor) -> Tensor:
        return F.linear(h, *self._pair(f"blocks_{name}"))

    def _norm(self, name: str, h: Tensor) -> Tensor:
        return F.layer_norm(h, (self.width,), *self._pair(f"blocks_{name}"), EPS)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
