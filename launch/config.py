"""How a run is started, watched and saved: the `run:` block of every recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from launch.command.checks import at_least, check


@dataclass(frozen=True)
class RunConfig:
    """How a run is started, watched and saved. Of what it computes, only seed and precision."""

    RENAMED: ClassVar[dict[str, str]] = {"may_change": "allow_changes"}

    folder: str
    """Where the run's configuration, checkpoints, metrics and logs go; an interrupted run there is resumed."""
    seed: int = 0
    """Seed of initial weights, order of samples, augmentation and noise."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the networks: fp32, or bf16 with norms, distances and losses in fp32; fp16, for GPUs without bf16
    and for stage one only, also scales the losses."""
    tf32: Literal["torch", "never", "always"] = "torch"
    """Whether training multiplies float32 as TF32 on GPUs, faster and with 10 bits instead of 23. torch: as torch's own
    settings say, by default in convolutions only; never; always. Searches for codes and evaluations never do."""
    strategy: Literal["ddp", "fsdp2", "zero1", "zero2", "zero3"] | None = None
    """How the ranks share weights, gradients and optimizer, in both stages (docs/training.md); null takes what the
    accelerate file says, else ddp. A resumed run may change it."""
    kernels: Literal["auto", "plain"] = "auto"
    """auto: stage one's networks use kernels made for the device, where there are some (stage1_tokenizer.kernels), and
    Llamas of stage two layers of fewer kernels on GPUs; plain: torch's and transformers' own only. Results agree up to
    rounding. A resumed run may change it."""
    deterministic: bool = False
    """On GPUs, use deterministic kernels, so that a resumed run is bit-identical; slower. CPUs always do."""
    bind_cores: bool = True
    """On machines with several NUMA nodes (sockets), run each rank on the cores near its GPU."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where metrics go besides metrics.jsonl: any of tensorboard, wandb; [] for none. One that isn't installed or can't
    start ends the run at once."""
    project: str = "vqloom"
    """The trackers' name of the project."""
    log_every: int = 50
    """Steps between two lines of training metrics."""
    save_every: int = 1000
    """Steps between two checkpoints; the last step is always saved."""
    keep: int = 2
    """How many of the newest checkpoints to keep; older ones are deleted once a new one is complete."""
    keep_every: int = 0
    """Also keep every checkpoint whose step is a multiple of this; 0 for none."""
    keep_best: str | None = None
    """Also keep the one with the best evaluation: a name in metrics.jsonl with :min or :max, such as eval/lpips:min."""
    processes: int | None = None
    """The number of ranks that the run must have to start; null accepts any."""
    timeout: int = 1800
    """Seconds after which a rank stops waiting for the others."""
    watchdog: float = 900.0
    """Seconds without a heartbeat (a step, an evaluation's reduction, a checkpoint) after which a hung rank dumps its
    stack traces and ends, and with it the job; 0 for never. The first step may take ten times as long."""
    skip_limit: int = 10
    """Updates in a row that may be skipped because their gradients are NaN or Inf. More roll the run back to its newest
    checkpoint, and the samples then come in another order."""
    rollbacks: int = 2
    """Maximum number of rollbacks before the run stops."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """If a checkpoint can't be written (full or read-only disk): end the run, or warn and continue."""
    save_in_background: bool = False
    """Copy the state to CPU memory and write it while training continues; it then waits for the disk only at the next
    checkpoint and at the end. Needs as much CPU memory as the state."""

    allow_changes: list[str] = field(default_factory=list)
    """Settings, by dotted name, that this start may change although the result depends on them: [data.transform.size]
    resumes at another resolution, [optimizer.learning_rate] at another rate, [data.index] on other data. The change is
    reported and recorded in run.json. With another data.batch_size some samples are repeated or skipped."""

    def __post_init__(self) -> None:
        fixed = [name for name in self.allow_changes if name.split(".")[0] in FIXED]
        if fixed:
            raise ValueError(f"run.allow_changes={fixed[0]} can't change within a run: remove it, or begin a new run")
        unknown = [name for name in self.trackers if name not in ("tensorboard", "wandb")]
        if unknown:
            raise ValueError(f"run.trackers={unknown[0]} is not known: use tensorboard, wandb or an empty list")
        at_least(1, self, "log_every", "save_every", "keep", "timeout", "processes", prefix="run.")
        at_least(0, self, "seed", "watchdog", "keep_every", "skip_limit", "rollbacks", prefix="run.")
        if self.keep_best is not None and self.keep_best.rpartition(":")[2] not in ("min", "max"):
            raise ValueError(f"run.keep_best={self.keep_best} doesn't say which is best: end it with :min or :max")


FREE_KEYS = tuple(
    f"run.{field.name}"
    for field in fields(RunConfig)
    if field.name not in ("seed", "precision", "tf32", "deterministic")
)
"""Free settings: a resumed run may change them, because the result doesn't depend on them."""

FIXED = ("model", "run")
"""Blocks of the configuration that no resumed run can change, except for their free settings."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up, decay, clipping and averaged weights, for both stages."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    beta1: float = 0.5
    """Decay of Adam's mean of gradients."""
    beta2: float = 0.9
    """Decay of Adam's mean of squared gradients."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip: float = 1.0
    """Maximum norm of a network's gradient; 0: no clipping."""
    warmup: int = 0
    """Steps over which the learning rate rises from 0."""
    decay: Literal["constant", "cosine"] = "constant"
    """After the warm-up: stay, or fall along a cosine to `final` at the last step."""
    final: float = 0.0
    """With decay=cosine, the last learning rate as a share of the peak."""
    ema_decay: float = 0.999
    """Share of the old average in the averaged weights, which are evaluated and released; it rises to this value over
    the first steps. 0: no averaging."""

    def __post_init__(self) -> None:
        at = "optimizer."
        check(at + "learning_rate", self.learning_rate, self.learning_rate > 0, "above 0")
        for name in ("beta1", "beta2", "ema_decay"):
            check(at + name, getattr(self, name), 0 <= getattr(self, name) < 1, "a share from 0 to below 1")
        at_least(0, self, "weight_decay", "warmup", prefix=at)
        check(at + "clip", self.clip, self.clip >= 0, "0 (no clipping) or more")
        check(at + "final", self.final, 0 <= self.final <= 1, "a share from 0 to 1")
