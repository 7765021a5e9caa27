"""What a prior is and how it is trained: the blocks of launch/recipes/*/prior.yaml."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from data.config import CodeDataConfig
from launch.command.checks import at_least, check
from launch.config import OptimizerConfig, RunConfig
from stage2_prior.config.model import PriorModelConfig


@dataclass(frozen=True)
class PriorOptimizerConfig(OptimizerConfig):
    """AdamW with warm-up, decay, clipping and averaged weights; embeddings and norms have no weight decay."""

    RENAMED: ClassVar[dict[str, str]] = {"warmup_steps": "warmup", "final_share": "final", "clip_norm": "clip"}

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.05
    warmup: int = 100
    decay: Literal["constant", "cosine"] = "cosine"
    final: float = 0.05
    accumulate: int = 1
    """Micro-batches into which each rank splits its samples, one forward and backward pass each, to save memory. If the
    number of ranks may change, set data.micro_batch instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("optimizer.accumulate", self.accumulate, self.accumulate >= 1, "1 or more")


@dataclass(frozen=True)
class PriorTrainConfig:
    """Train a prior over a tokenizer's codes."""

    run: RunConfig
    """Folder, seed, precision, checkpoints, trackers."""
    data: CodeDataConfig
    """The code shards, made by stage2_prior.encode."""
    tokenizer: str | None = None
    """The released tokenizer that made these codes; codes of another one are refused. Required, but for a unified
    prior, whose sets of codes name theirs."""
    init_text: str | None = None
    """Of a unified prior: a text model whose released weights it begins from, a folder or a name on the Hub (Llama,
    Qwen3 or OLMo 2). It decides the shape, and the tokenizer of texts unless one is given; rows of new tokens begin at
    the mean of its own."""
    model: PriorModelConfig = field(default_factory=PriorModelConfig)
    """The transformer."""
    optimizer: PriorOptimizerConfig = field(default_factory=PriorOptimizerConfig)
    """How it is optimised."""
    steps: int = 1000
    """Steps to train."""
    evaluate_every: int = 500
    """Steps between two evaluations on data.held_out; the last step is always evaluated."""
    activation_checkpointing: bool = False
    """Keep only the layers' inputs for the backward pass and recompute the rest: less memory, a third more work."""
    compile: bool = False
    """Compile the transformer and its losses with torch.compile: faster steps on GPUs after minutes of compiling. CPUs
    don't compile: it makes them no faster."""
    compile_fallback: bool = False
    """Where compiling fails, train without it instead of ending."""
    dry_run: bool = False
    """Print parameters, operations and memory, without training."""

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "evaluate_every")
        if not self.data.index:
            raise ValueError("data.index names no index: set it to the index.json that stage2_prior.encode wrote")
        self._check_unified()
        if self.data.micro_batch is not None and self.optimizer.accumulate > 1:
            raise ValueError(
                f"optimizer.accumulate={self.optimizer.accumulate} and data.micro_batch={self.data.micro_batch} both "
                "split the batch: remove one of them"
            )
        if self.activation_checkpointing and self.model.per_level_weights:
            raise ValueError(
                "activation_checkpointing=true is not supported with model.per_level_weights=true: leave one of them "
                "out"
            )

    def _check_unified(self) -> None:
        """What only unified priors have, or not."""
        if self.model.kind != "unified":
            if not self.tokenizer:
                raise ValueError("tokenizer is not set: give the released tokenizer that made the codes of data.index")
            if self.init_text is not None:
                raise ValueError(
                    f"init_text is not supported with model.kind={self.model.kind}: leave it out, or set model.kind to "
                    "unified"
                )
        if self.model.lora_rank and self.init_text is None:
            raise ValueError("model.lora_rank needs the weights of a text model: set init_text, or leave it out")
        if self.model.lora_rank and self.activation_checkpointing:
            raise ValueError(
                "activation_checkpointing=true is not supported with model.lora_rank: leave one of them out"
            )

    def micro_batches(self, world_size: int) -> int:
        """Number of micro-batches into which each of `world_size` ranks splits its samples of a batch."""
        own = max(1, self.data.batch_size // world_size)
        if self.data.micro_batch is not None:
            return -(-own // self.data.micro_batch)
        return min(self.optimizer.accumulate, own)
