"""Stock transformers: their shapes, their weights in a folder, and the work that they do for each code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging

from launch.checkpoints.names import PATTERN
from launch.command.checks import named
from launch.command.cli import UserError, reason
from stage2_prior.config.model import Architecture, PriorModelConfig


@dataclass(frozen=True)
class Work:
    """The work of one transformer for each code of a picture, from which its cost is counted."""

    transformer: Any
    """A stock model."""
    tokens: float
    """Its tokens for each code."""
    attended: float
    """Tokens that each of them attends to, on average."""
    idle: int = 0
    """Weights of its output layer that a token is not multiplied by."""


ARCHITECTURES: dict[Architecture, tuple[Any, Any, Any]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, transformers.LlamaModel),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, transformers.Qwen3Model),
    "olmo2": (transformers.Olmo2Config, transformers.Olmo2ForCausalLM, transformers.Olmo2Model),
}
"""Of each `model.architecture` the stock configuration, the model with a head and the one without."""


def llama_settings(config: PriorModelConfig, tokens: int, positions: int, **changes: Any) -> Any:
    """The stock configuration of `model.*` for a number of token ids and of positions; `changes` by its own names."""
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
    if config.architecture == "qwen3":
        settings["head_dim"] = config.width // config.heads
    if config.architecture == "olmo2":
        settings["pad_token_id"] = None
    return ARCHITECTURES[config.architecture][0](**settings | changes)


def with_head(settings: Any) -> Any:
    """A stock causal model with a head over the tokens, with fresh weights, of what `llama_settings` gives."""
    return ARCHITECTURES[settings.model_type][1](settings)


def without_head(settings: Any) -> Any:
    """The same without the head."""
    return ARCHITECTURES[settings.model_type][2](settings)


def bert_settings(layers: int, rope_theta: float, **shape: Any) -> Any:
    """A ModernBertConfig that attends to all tokens in every layer and has no special ones; `shape` by its names."""
    rope = {"rope_type": "default", "rope_theta": rope_theta}
    absent: dict[str, None] = dict.fromkeys(f"{token}_token_id" for token in ("pad", "bos", "eos", "cls", "sep"))
    return transformers.ModernBertConfig(
        num_hidden_layers=layers,
        layer_types=["full_attention"] * layers,
        rope_parameters={"full_attention": rope, "sliding_attention": dict(rope)},
        **shape | absent,
    )


def checkpoint_layers(transformer: Any, *, reentrant: bool) -> None:
    """Let a stock model keep its layers' inputs only, and recompute the rest for the backward pass."""
    known = getattr(transformer, "activation_checkpointing_enable", None)  # its newer name
    (known or transformer.gradient_checkpointing_enable)({"use_reentrant": reentrant})


def stock_model(name: str, folder: Path) -> Any:
    """What the transformers class `name` loads from a folder, float32, on the CPU; safetensors only, never a pickle.

    UserError where that can't be loaded, or where a weight is missing: transformers would draw it at random.
    """
    logging.disable_progress_bar()
    kept: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
    told: dict[str, Any] = {"key_mapping": {PATTERN: ""}, "output_loading_info": True}
    try:
        model, found = getattr(transformers, name).from_pretrained(folder, **kept, **told)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} has no safetensors weights for {name} ({reason(error)}): export the prior again"
        ) from error
    if found["missing_keys"]:
        missing = named(sorted(found["missing_keys"]))
        raise UserError(f"{folder} has no weights for {missing} of {name}: export the prior again")
    return model


def needs_vqloom(why: str, stock: str) -> str:
    """The model card's words for a prior that plain transformers can load, but not sample."""
    return f"Sampling needs vqloom: {why}. The transformers themselves are stock: {stock}."
