"""Vision transformers and classifiers of a few thousand random weights, as folders that transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

WIDTH = 16
VISION: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 2,
}
MLP = {"intermediate_size": 32}
KINDS: dict[str, Any] = {
    "dinov2": lambda: transformers.Dinov2Config(**VISION, mlp_ratio=2),
    "registers": lambda: transformers.Dinov2WithRegistersConfig(**VISION, mlp_ratio=2, num_register_tokens=3),
    "siglip": lambda: transformers.SiglipVisionConfig(**VISION, **MLP),
    "clip": lambda: transformers.CLIPVisionConfig(**VISION, **MLP),
    "vit": lambda: transformers.ViTConfig(**VISION, **MLP),
    "whole_clip": lambda: transformers.CLIPConfig(
        text_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, **MLP, "vocab_size": 50000},
        vision_config={**VISION, **MLP},
    ),
}
"""Vision transformers with patches of 2 pixels, by name; vit is saved without its pooling layer."""

BEFORE = {"dinov2": 1, "registers": 4, "siglip": 0, "clip": 1, "whole_clip": 1}
"""Tokens before the patches: of the class, and registers."""

MEAN, DEVIATION = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


def save(folder: Path, kind: str = "dinov2") -> str:
    """Write a vision transformer into a folder; its path."""
    torch.manual_seed(0)
    network = transformers.AutoModel.from_config(KINDS[kind]())
    if kind == "vit":
        network.pooler = None
    return _written(folder, network)


def save_classifier(folder: Path) -> str:
    """Write a ResNet with five classes into a folder; its path."""
    torch.manual_seed(0)
    shape = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 5}
    network = transformers.AutoModelForImageClassification.from_config(transformers.ResNetConfig(**shape))
    return _written(folder, network)


def _written(folder: Path, network: Any) -> str:
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": DEVIATION}))
    return str(folder)
