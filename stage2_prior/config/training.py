"""What a prior is and how it is trained: the blocks of launch/recipes/*/prior.yaml."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from data.config import CodeDataConfig
from launch.run.runtime import RunConfig
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


@dataclass(frozen=True)
class PriorOptimizerConfig:
    """AdamW with a linear warm-up and a cosine decay, clipping and averaged weights."""

    learning_rate: float = 1e-3
    """The highest learning rate, reached after the warm-up."""
    warmup_steps: int = 100
    """Steps over which the rate rises from 0."""
    final_share: float = 0.05
    """The learning rate of the last step, as a share of the highest."""
    beta1: float = 0.9
    """Decay of AdamW's mean of gradients."""
    beta2: float = 0.95
    """Decay of AdamW's mean of squared gradients."""
    weight_decay: float = 0.05
    """Decoupled decay of matrices; embeddings and norms have none."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    accumulate: int = 1
    """Parts that a rank's share of the batch is cut into, one forward and backward each, to save memory. Where the
    number of ranks may change, set data.micro_batch instead: the parts then follow from it."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, which are evaluated and exported; it rises to this value over the first steps."""

    def __post_init__(self) -> None:
        rules = (
            ("learning_rate", self.learning_rate > 0, "be above 0"),
            ("warmup_steps", self.warmup_steps >= 0, "be 0 or more"),
            ("final_share", 0 <= self.final_share <= 1, "lie in [0, 1]"),
            ("beta1", 0 <= self.beta1 < 1, "lie in [0, 1)"),
            ("beta2", 0 <= self.beta2 < 1, "lie in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "be 0 or more"),
            ("clip_norm", self.clip_norm >= 0, "be 0 (no clipping) or more"),
            ("accumulate", self.accumulate >= 1, "be 1 or more"),
            ("ema_decay", 0 <= self.ema_decay < 1, "lie in [0, 1): 0 keeps the latest weights"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"optimizer.{name}={getattr(self, name)} must {rule}")


@dataclass(frozen=True)
class PriorTrainConfig:
    """Train a prior over a tokenizer's codes."""

    run: RunConfig
    """Folder, seed, precision, checkpoints, trackers."""
    data: CodeDataConfig
    """The code shards, made by stage2_prior.encode."""
    tokenizer: str
    """The released tokenizer whose codes these are; codes of another one are refused."""
    model: PriorModelConfig = field(default_factory=PriorModelConfig)
    """The transformer."""
    optimizer: PriorOptimizerConfig = field(default_factory=PriorOptimizerConfig)
    """How its weights are found."""
    steps: int = 1000
    """Steps to train."""
    evaluate_every: int = 500
    """Steps between two evaluations on data.held_out; the last step is always evaluated."""
    activation_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the rest again: less memory, a third more work."""
    compile: bool = False
    """Compile the transformer with torch.compile: faster steps on GPUs after minutes of compiling."""
    dry_run: bool = False
    """Print parameters, operations and memory, and train nothing (--dry-run true is the same)."""

    def __post_init__(self) -> None:
        for name in ("steps", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: set it to 1 or more")
        if not self.data.index:
            raise ValueError("data.index names no index: set it to the index.json that stage2_prior.encode wrote")
        if self.data.micro_batch is not None and self.optimizer.accumulate > 1:
            raise ValueError(
                f"optimizer.accumulate={self.optimizer.accumulate} and data.micro_batch={self.data.micro_batch} both "
                "cut the batch: leave one of them out"
            )

    def parts(self, world_size: int) -> int:
        """How many parts each of so many ranks cuts its samples of a batch into."""
        own = max(1, self.data.batch_size // world_size)
        if self.data.micro_batch is not None:
            return -(-own // self.data.micro_batch)
        return min(self.optimizer.accumulate, own)
