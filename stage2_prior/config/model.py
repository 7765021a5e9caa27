"""What a prior is: the block `model` of launch/recipes/*/prior.yaml."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from stage2_prior.config.presets import PRESETS, PresetName
from stage2_prior.config.text import TextConfig

FEED_FORWARD_MULTIPLE = 32
"""The inner width is rounded up to a multiple of this, which matrix kernels like."""


@dataclass(frozen=True)
class PriorModelConfig:
    """The transformer over codes."""

    kind: Literal["autoregressive", "masked", "multiscale", "depth"] = "autoregressive"
    """autoregressive: a causal Llama, one code after the other; masked: a bidirectional encoder that fills in masks.
    multiscale: all codes of a scale at once, for the quantizer of this name (VAR); depth: a Llama over the places and a
    small one over each place's codes, for the quantizers residual and product (RQ-Transformer)."""
    condition: Literal["class", "none", "text"] = "class"
    """What the codes depend on: the sample's class, nothing, or its caption."""
    text: TextConfig = field(default_factory=TextConfig)
    """How captions are read."""
    preset: PresetName | None = None
    """A published shape, which sets layers, width, heads and feed_forward_width; null: they are set one by one."""
    layers: int = 6
    """Transformer blocks."""
    depth_layers: int = 4
    """Of a depth prior: blocks of the small transformer."""
    width: int = 256
    """Features of each token."""
    heads: int = 4
    """Attention heads; they share the width."""
    key_value_heads: int | None = None
    """Heads of keys and values, where fewer than `heads` (grouped queries); null for as many."""
    feed_forward_width: int | None = None
    """Inner width of the gated feed-forward layers; null for 8/3 of the width (a plain layer's parameters at 4)."""
    tied: bool = False
    """Whether the output layer shares the token embedding's weights (of a multiscale prior always)."""
    rope_theta: float = 10000.0
    """Base of the rotary positions' wavelengths."""
    attention_dropout: float = 0.0
    """Dropout of attention weights in training."""
    code_noise: float = 0.0
    """Share of the codes that the prior reads, not those it predicts, replaced by random ones in training: against
    learning small sets by heart."""
    class_dropout: float = 0.1
    """Share of training samples whose class (or caption) becomes the null token (or no text), which guidance needs."""
    order: Literal["raster", "random"] = "raster"
    """Of an autoregressive prior, the order of codes in training: rows from the top; or every sample in a random order
    of its own at first and in rows at last, so that the prior learns from both sides (RAR). It is sampled in rows."""
    anneal_from: float = 0.5
    """With order=random: share of the steps after which the random orders begin to give way."""
    anneal_until: float = 0.75
    """With order=random: share of the steps from which all orders are rows."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all codes."""
    z_loss: float = 0.0
    """Weight of the squared log-sum-exp of the logits, which keeps them near 0 in long trainings; 1e-4 is usual."""

    def __post_init__(self) -> None:
        self._apply_preset()
        if self.order == "random" and self.kind != "autoregressive":
            raise ValueError(f"model.order=random is not for model.kind={self.kind}: set model.order to raster")
        if self.condition == "text" and self.kind not in ("autoregressive", "masked"):
            raise ValueError(
                f"model.condition=text is not for model.kind={self.kind}: set it to class or none, or model.kind to "
                "autoregressive or masked"
            )
        if not 0 <= self.anneal_from <= self.anneal_until <= 1:
            raise ValueError(
                f"model.anneal_from={self.anneal_from} and model.anneal_until={self.anneal_until} must be shares of "
                "the steps, the first no more than the second"
            )
        if self.z_loss < 0:
            raise ValueError(f"model.z_loss={self.z_loss} must be 0 (none) or more")
        for name in ("layers", "depth_layers", "width", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)} is too small: set it to 1 or more")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"model.width={self.width} over model.heads={self.heads} is no even whole head width: "
                f"set model.width to a multiple of {2 * self.heads}"
            )
        if self.key_value_heads is not None and (self.key_value_heads < 1 or self.heads % self.key_value_heads):
            raise ValueError(
                f"model.key_value_heads={self.key_value_heads} doesn't divide model.heads={self.heads}: "
                "set it to null or to a divisor"
            )
        for name in ("attention_dropout", "code_noise", "class_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)} is no share: set it in [0, 1)")

    def _apply_preset(self) -> None:
        if self.preset is None:
            return
        defaults = {field.name: field.default for field in fields(self)}
        for name, value in asdict(PRESETS[self.preset]).items():
            own = getattr(self, name)
            if own not in (defaults[name], value):
                raise ValueError(
                    f"model.{name}={own} is not that of model.preset={self.preset}, which has {value}: leave one out"
                )
            object.__setattr__(self, name, value)

    @property
    def prefix(self) -> int:
        """Tokens that a caption takes before the codes."""
        return self.text.tokens if self.condition == "text" else 0

    @property
    def inner_width(self) -> int:
        """Features inside the feed-forward layers."""
        if self.feed_forward_width is not None:
            return self.feed_forward_width
        return -(-8 * self.width // (3 * FEED_FORWARD_MULTIPLE)) * FEED_FORWARD_MULTIPLE
