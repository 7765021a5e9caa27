"""A unified prior begun from a text model's released weights, trained whole or by low-rank changes (LoRA).

Rows of embeddings and output layer that the text model has no tokens for begin at the mean of those that it has, which
gives new tokens the probability of an average one (Hewitt 2021). LoRA (Hu et al. 2021) is peft's.
"""

import importlib.util
import pkgutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from launch.command.cli import UserError
from launch.files.downloads import fetched
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.stock import ARCHITECTURES, stock_model

TOKENIZER = "tokenizer.json"
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of a layer."""
SHAPE = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "feed_forward_width": "intermediate_size",
    "tied": "tie_word_embeddings",
    "architecture": "model_type",
}
"""Settings that a text model decides, by their names in its configuration."""


def begun_from(init_text: str, config: PriorModelConfig, tokenizer: Tokenizer, size: int, positions: int) -> Any:
    """The text model in a folder (or of a name on the Hub) for `size` tokens, float32.

    `tokenizer` is that of the prior, which must have the text model's tokens first; sequences have up to `positions`
    tokens. UserError for another architecture, for a model.* that contradicts it, and for another tokenizer.
    """
    place = fetched(init_text)
    lm = stock_model("AutoModelForCausalLM", place)
    known = {stock: name for name, (_, stock, _) in ARCHITECTURES.items()}
    if type(lm) not in known:
        names = ", ".join(stock.__name__ for stock in known)
        raise UserError(f"init_text={init_text} is a {type(lm).__name__}: give one of {names}")
    _check_shape(init_text, config, lm.config)
    own = _own_tokens(init_text, place, tokenizer)
    lm.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for layer in {id(each): each for each in (lm.get_input_embeddings(), lm.get_output_embeddings())}.values():
            layer.weight[own:] = layer.weight[:own].mean(0)
    lm.config.max_position_embeddings = max(positions, lm.config.max_position_embeddings)
    lm.config.attention_dropout = config.attention_dropout
    return lm


def _check_shape(init_text: str, config: PriorModelConfig, stock: Any) -> None:
    """UserError for a shape in the configuration that isn't the text model's."""
    defaults = {field.name: field.default for field in fields(config)}
    for name, theirs in SHAPE.items():
        own, value = getattr(config, name), getattr(stock, theirs)
        if own not in (defaults[name], value):
            raise UserError(f"model.{name}={own} contradicts init_text={init_text}, which has {value}: leave it out")


def _own_tokens(init_text: str, place: Path, tokenizer: Tokenizer) -> int:
    """The number of tokens that the text model has; UserError unless they are the first of `tokenizer`."""
    if not (place / TOKENIZER).exists():
        raise UserError(f"init_text={init_text} has no {TOKENIZER}: give a text model with one")
    theirs = Tokenizer.from_file(str(place / TOKENIZER)).get_vocab()
    ours = tokenizer.get_vocab()
    strange = next((token for token, number in theirs.items() if ours.get(token) != number), None)
    if strange is not None:
        raise UserError(
            f"init_text={init_text} has the token {strange!r} at {theirs[strange]}, the prior has not: leave "
            "out model.unified.text_tokenizer"
        )
    return max(theirs.values()) + 1


class LowRank:
    """Low-rank changes to a stock model's layers, which alone are trained, with its embeddings and output layer."""

    def __init__(self, lm: Any, rank: int):
        """Puts them into `lm`; UserError where peft isn't installed."""
        if importlib.util.find_spec("peft") is None:
            raise UserError(
                "model.lora_rank needs peft, which isn't installed: pip install 'vqloom[lora]', or set it to 0"
            )
        settings = pkgutil.resolve_name("peft:LoraConfig")(
            r=rank, lora_alpha=2 * rank, target_modules=list(ADAPTED), lora_dropout=0.0, bias="none"
        )
        self._adapted = pkgutil.resolve_name("peft:LoraModel")(lm, settings, "default")
        for layer in (lm.get_input_embeddings(), lm.get_output_embeddings()):
            layer.weight.requires_grad_(True)

    def merged(self) -> Any:
        """The stock model with the changes added to its matrices."""
        return self._adapted.merge_and_unload(progressbar=False)
