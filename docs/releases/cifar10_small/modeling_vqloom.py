# Made from stage1_tokenizer.publishing.transformers_model of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from transformers import PretrainedConfig
from .stage1_tokenizer_tokenizer_folder import MODEL_TYPE
from typing import Any
from transformers import PreTrainedModel
from .stage1_tokenizer_tokenizer_codec import Codec
from .stage1_tokenizer_tokenizer_folder import model_config
from pathlib import Path
from .stage1_tokenizer_tokenizer_folder import CONFIG
import torch
from torch import Tensor


class VqloomConfig(PretrainedConfig):
    """config.json of a released tokenizer."""

    model_type = MODEL_TYPE

    def __init__(self, model: dict[str, Any] | None = None, **others: Any):
        super().__init__(**others)
        self.model = model or {}


class VqloomTokenizer(PreTrainedModel):
    """A tokenizer of vqloom; `encode`, `decode` and `reconstruct` are those of its class Codec."""

    config_class = VqloomConfig
    base_model_prefix = "tokenizer"
    main_input_name = "x_BCHW"
    _keys_to_ignore_on_load_missing = [r"\.statistics\."]  # noqa: RUF012

    def __init__(self, config: VqloomConfig):
        super().__init__(config)
        self.tokenizer = Codec(model_config(config.model, Path(CONFIG)))
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """As transformers' own; then what the file doesn't hold is set as a fresh tokenizer has it.

        transformers leaves such tensors (a fixed codebook's table, statistics of training) without values.
        """
        made = super().from_pretrained(*args, **options)
        tokenizer = (made[0] if isinstance(made, tuple) else made).tokenizer
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            fresh = Codec(tokenizer.config)
        weights, buffers = tokenizer.weights(), dict(tokenizer.named_buffers())
        for name, buffer in fresh.named_buffers():
            if name not in weights:
                buffers[name].copy_(buffer)
        tokenizer.load_state_dict(weights)
        return made

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: modules draw their own first weights."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The reconstruction of pictures in [-1, 1]."""
        return self.tokenizer.reconstruct(x_BCHW)[0]

    def encode(self, pictures: Tensor) -> Tensor:
        """Codes of pictures, floats (B, C, H, W) in [-1, 1]: see Codec.encode."""
        return self.tokenizer.encode(pictures)

    def decode(self, codes: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] of codes: see Codec.decode."""
        return self.tokenizer.decode(codes)

    def reconstruct(self, pictures: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pictures and back, with their codes: see Codec.reconstruct."""
        return self.tokenizer.reconstruct(pictures)
