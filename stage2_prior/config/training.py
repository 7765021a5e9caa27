"""What a prior is and how it is trained: the blocks of launch/recipes/*/prior.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field

from data.config import CodeDataConfig
from launch.config import RunConfig
from stage2_prior.config.model import PriorModelConfig


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
