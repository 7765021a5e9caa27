"""Dropout that stock transformers lack: of what their layers add to the residual stream, and of embedded tokens.

Hooks of modules drop features in training, so that models, weights and exports stay stock. As dropout of attention
weights, it is drawn from torch's generator, which a run seeds from its seed, the rank and the step: a resumed run drops
the same features.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.base import Prior

ENDS = {
    "llama": ("o_proj", "down_proj"),
    "qwen3": ("o_proj", "down_proj"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "modernbert": ("Wo",),
}
"""The modules whose outputs are added to the residual stream, by the stock model's type."""


def drop_out(prior: Prior, config: PriorModelConfig) -> None:
    """Let a prior's modules drop features in training, as `model.dropout` and `model.token_dropout` say."""
    if config.dropout > 0:
        for transformer in prior.transformers:
            ends: Any = ENDS[transformer.config.model_type]  # type: ignore[union-attr, index]
            for name, module in transformer.named_modules():
                if name.rpartition(".")[2] in ends:
                    module.register_forward_hook(_dropping(config.dropout))
    if config.token_dropout > 0:
        prior.lm.get_input_embeddings().register_forward_hook(_dropping(config.token_dropout))


def _dropping(share: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that drops a share of a module's output in training, and scales the rest up."""

    def dropped(module: nn.Module, inputs: Any, y: Tensor) -> Tensor:
        return F.dropout(y, share, module.training)

    return dropped
