"""Stock Llamas of a configured shape, with fresh weights."""

from __future__ import annotations

from typing import Any

from stage2_prior.config.model import PriorModelConfig


def llama_settings(config: PriorModelConfig, tokens: int, positions: int, **changes: Any) -> Any:
    """The LlamaConfig of `model.*` for a number of token ids and of positions; `changes` by LlamaConfig's names."""
    from transformers import LlamaConfig

    settings: dict[str, Any] = {
        "vocab_size": tokens,
        "hidden_size": config.width,
        "intermediate_size": config.inner_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads or config.heads,
        "max_position_embeddings": positions,
        "tie_word_embeddings": config.tied,
        "attention_dropout": config.attention_dropout,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return LlamaConfig(**settings | changes)
