"""Published shapes of priors, by `model.preset`."""

from typing import Literal

PresetName = Literal[
    "LlamaGen-B",
    "LlamaGen-L",
    "LlamaGen-XL",
    "LlamaGen-XXL",
    "LlamaGen-3B",
    "RAR-B",
    "RAR-L",
    "RAR-XL",
    "RAR-XXL",
    "AliTok-B",
    "AliTok-L",
    "AliTok-XL",
]

SHAPE = ("layers", "width", "heads", "feed_forward_width", "architecture")
"""The settings that a preset has values for."""

PRESETS: dict[str, tuple[int, int, int, int, str]] = {
    "LlamaGen-B": (12, 768, 12, 2048, "llama"),
    "LlamaGen-L": (24, 1024, 16, 2816, "llama"),
    "LlamaGen-XL": (36, 1280, 20, 3584, "llama"),
    "LlamaGen-XXL": (48, 1536, 24, 4096, "llama"),
    "LlamaGen-3B": (24, 3200, 32, 8704, "llama"),
    "RAR-B": (24, 768, 16, 2048, "qwen3"),
    "RAR-L": (24, 1024, 16, 2752, "qwen3"),
    "RAR-XL": (32, 1280, 16, 3424, "qwen3"),
    "RAR-XXL": (40, 1408, 16, 4096, "qwen3"),
    "AliTok-B": (24, 768, 16, 2048, "qwen3"),
    "AliTok-L": (24, 1024, 16, 2816, "qwen3"),
    "AliTok-XL": (32, 1280, 16, 3584, "qwen3"),
}
"""Of each, layers, width, heads, inner width of the gated feed-forward layers, and architecture.

LlamaGen: Sun et al. 2024, table 1; inner widths are 8/3 of the width rounded up to a multiple of 256, as in their code.
RAR: Yu et al. 2024, table 1 (README_RAR.md). Its plain feed-forward layers of 4 widths (XXL: 6,144) are gated ones with
as many weights here, 2/3 as wide; its adaLN, a third of its weights, isn't here, and positions are rotary.
AliTok: Wu et al. 2025 (configs/alitok_*.yaml, modeling/ar.py), but for its positions in two dimensions.
"""
