# Made from stage1_tokenizer.tokenizer.folder of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from typing import get_type_hints
import dataclasses
from typing import Any
from .stage1_tokenizer_config_model import ModelConfig
from .launch_command_cli import UserError
from pathlib import Path


CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"


MODEL_TYPE = "vqloom_tokenizer"


def model_config(values: dict[str, Any], source: Path) -> ModelConfig:
    """ModelConfig from its JSON; UserError for a key or a value that this version doesn't know."""
    try:
        return _built(ModelConfig, values)
    except (TypeError, ValueError) as error:
        known = ", ".join(get_type_hints(ModelConfig))
        raise UserError(f"{source}: model can't be read ({error}); this version knows {known}") from error


def _built(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass from its JSON, nested ones included."""
    types = get_type_hints(kind)
    nested = {key: _built(types[key], values[key]) for key in values if dataclasses.is_dataclass(types.get(key))}
    return kind(**{**values, **nested})
