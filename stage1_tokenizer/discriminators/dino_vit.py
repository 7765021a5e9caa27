"""A frozen vision transformer (Dosovitskiy et al. 2021) as DINO trained it: transformers' ViT, with DINO's file.

Width, depth and patch size follow from the weights; DINO's files and timm's copies have the same names.
Legend: B batch, C channels, H W pixels, T tokens (the class token and the patches), D width.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from launch.checkpoints.names import unwrapped
from launch.command.cli import UserError

HEAD = 64
"""Channels of an attention head in every DINO transformer."""

EPS = 1e-6
"""Epsilon of DINO's layer norms."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet pictures in [0, 1]."""

ONCE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
}
IN_BLOCKS = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""DINO's names to those of transformers' ViT checkpoints, outside and inside blocks."""

WAY = "give DINO's dino_deitsmall16_pretrain.pth, or a file of its layout"


def load_vit(file: str) -> FrozenViT:
    """The transformer of a .pth or .safetensors file. Raises UserError if it has something else."""
    path = Path(file)
    if not path.is_file():
        raise UserError(f"loss.adversarial.weights={file} is not a file: {WAY}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return FrozenViT(unwrapped(load_file(path), file))
        return FrozenViT(unwrapped(torch.load(path, map_location="cpu", weights_only=True), file))
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
    """Tokens after selected layers of a ViT. Weights are non-persistent buffers: frozen, and not in state_dict()."""

    def __init__(self, weights: dict[str, Tensor]):
        """Raises LookupError, RuntimeError or ValueError if a tensor of `weights` is missing or has the wrong shape."""
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.width, _, self.patch, _ = weights["patch_embed.proj.weight"].shape
        self.depth = sum(name.startswith("blocks.") and name.endswith(".norm1.weight") for name in weights)
        if self.width % HEAD or not self.depth:
            raise ValueError(f"width {self.width}, {self.depth} blocks")
        self.embeddings, self.layers = _load(weights, self.width, self.depth, self.patch)
        for module in self.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    delattr(module, name)
                    module.register_buffer(name, parameter.detach().float(), persistent=False)
        scale = torch.tensor(DEVIATION).view(1, 3, 1, 1) * 2
        shift = torch.tensor(MEAN).view(1, 3, 1, 1) * 2 - 1
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, x_BCHW: Tensor, after: list[int]) -> list[Tensor]:
        """The tokens h_BTD after the layers with these numbers; −1 is the input of the first.

        Pictures are in [-1, 1] with 1 or 3 channels; ValueError unless `patch` divides their sides. The first token is
        the class token.
        """
        if any(side % self.patch for side in x_BCHW.shape[2:]):
            raise ValueError(
                f"pictures of {tuple(x_BCHW.shape[2:])} are not a multiple of the patch size {self.patch}: set "
                f"loss.adversarial.resize to a multiple of {self.patch}"
            )
        h_BTD = self.embeddings((x_BCHW - self.shift) / self.scale, interpolate_pos_encoding=True)
        tokens = {-1: h_BTD}
        for number, layer in enumerate(self.layers):
            h_BTD = layer(h_BTD)
            tokens[number] = h_BTD
        return [tokens[number] for number in after]


def _load(weights: dict[str, Tensor], width: int, depth: int, patch: int) -> tuple[nn.Module, nn.ModuleList]:
    """The patch embedding and the layers, in evaluation mode."""
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.modeling_vit import ViTLayer
    from transformers.utils import logging

    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // HEAD,
        intermediate_size=len(weights["blocks.0.mlp.fc1.weight"]),
        image_size=round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=EPS,
    )
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        state, eager = _renamed(weights, width, depth), "eager"  # fused attention has no second derivative
        model = ViTModel.from_pretrained(
            None, config=config, state_dict=state, add_pooling_layer=False, attn_implementation=eager
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    return model.embeddings, nn.ModuleList(part for part in model.modules() if isinstance(part, ViTLayer))


def _renamed(weights: dict[str, Tensor], width: int, depth: int) -> dict[str, Tensor]:
    """The weights under the names of transformers' ViT checkpoints."""
    state = {theirs: weights[ours] for ours, theirs in ONCE.items()}
    state |= {"layernorm.weight": torch.ones(width), "layernorm.bias": torch.zeros(width)}  # the final norm: unused
    for number in range(depth):
        ours, theirs = f"blocks.{number}.", f"encoder.layer.{number}."
        for kind in ("weight", "bias"):
            for name, part in zip(("query", "key", "value"), weights[f"{ours}attn.qkv.{kind}"].chunk(3), strict=True):
                state[f"{theirs}attention.attention.{name}.{kind}"] = part
            for name, other in IN_BLOCKS.items():
                state[f"{theirs}{other}.{kind}"] = weights[f"{ours}{name}.{kind}"]
    return state
