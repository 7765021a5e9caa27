"""What is raced, on what, and with which settings; and where those of the contenders differ.

The networks, the batch, the codebook and the data's preparation are the recipe's for all. Ours has the recipe's other
settings too. The peers have those that they publish (taming: `configs/custom_vqgan.yaml` and `main.py`; LlamaGen: the
defaults of `vq_train.py` and `train_c2i.py`), but for the learning rate and the start of the discriminator: theirs are
for days of training, so that half an hour of it gives them little. They get what served them best in trials.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from launch.command.cli import parse
from launch.config import OptimizerConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig

OURS, TAMING, LLAMAGEN = "ours", "taming", "llamagen"


@dataclass(frozen=True)
class Race:
    """One race; `race.json` in its folder keeps it, so that it can be continued."""

    out: str
    """Folder of everything that the race writes."""
    recipe: str
    """A tokenizer.yaml: networks, batch, preparation for all, and the rest for ours."""
    prior: str
    """A prior.yaml, likewise for the priors; "": none."""
    data: str
    """Index of the training pictures."""
    held_out: str
    """Index of those on which all are measured."""
    peer: str
    """Folder with checkouts taming-transformers and LlamaGen."""
    minutes: float
    """Of training, for each."""
    prior_minutes: float
    """Of training, for each prior."""
    slice_seconds: float = 150.0
    """How long one trains before the next takes its turn."""
    moments: int = 20
    """Measurements of each, evenly spread over its time."""
    pictures: int = 1000
    """Held-out pictures measured."""
    samples: int = 1000
    """Samples of each prior that are measured."""
    threads: int = 2
    """Of torch, for each on a CPU."""
    device: str = "cpu"
    rate: float = 1e-3
    """The peers' learning rate."""
    start: float = 1.0
    """Share of the time after which the peers' discriminators start."""
    prior_rate: float = 1e-3
    """The learning rate of LlamaGen's GPT."""
    options: list[str] = field(default_factory=list)
    """Options of stage1_tokenizer.train for all, after the recipe's."""

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def of_tokenizers(self) -> Self:
        """The race without its priors, which may be added later."""
        return replace(self, prior="", prior_minutes=0, prior_rate=0, samples=0)

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "race.json").write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(**json.loads((folder / "race.json").read_text()))

    def config(self, steps: int | None = None, *more: str) -> TokenizerTrainConfig:
        """The recipe's settings on the race's data. With `steps`, all that is counted in steps keeps its share."""
        places = {"run.folder": self.folder / OURS, "data.index": self.data, "data.held_out": self.held_out}
        words = ["--config", self.recipe, *words_of(places), "--run.trackers", "[]", *self.options]
        if steps is not None:
            words += words_of(scaled(parse(TokenizerTrainConfig, words, prog="the recipe"), steps))
        return parse(TokenizerTrainConfig, [*words, *more], prog="the recipe")


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def scaled(recipe: TokenizerTrainConfig, steps: int) -> dict[str, Any]:
    """Options that give a tokenizer's schedule another number of steps."""
    share, adversarial = steps / recipe.steps, recipe.loss.adversarial
    return scaled_optimizer(recipe.optimizer, steps, recipe.steps) | {
        "loss.adversarial.start": round(adversarial.start * share),
        "loss.adversarial.ramp": round(adversarial.ramp * share),
        "data.early_steps": round(recipe.data.early_steps * share),
        "evaluate_every": 0,
    }


def scaled_optimizer(optimizer: OptimizerConfig, steps: int, of: int) -> dict[str, Any]:
    """Those of any stage: `steps` instead of `of`, warm-up and averages over the same shares."""
    decay = optimizer.ema_decay and max(0.9, 1 - (1 - optimizer.ema_decay) * of / steps)
    return {
        "steps": steps,
        "optimizer.warmup": math.ceil(optimizer.warmup * steps / of),
        "optimizer.ema_decay": min(decay, 0.9999),
    }


def differences(race: Race) -> list[tuple[str, str, str, str, str]]:
    """Every setting in which the three differ: its name, ours, taming's, LlamaGen's, and why."""
    config = race.config()
    loss, optimizer, quantizer, own = config.loss, config.optimizer, config.model.quantizer, "each its own"
    adversarial = loss.adversarial
    early = config.data.early_steps
    sizes = f"{config.data.early_size} px for {early / config.steps:.0%} of the steps" if early else "one"
    share = f"from {adversarial.start / config.steps:.0%} of the steps on" if adversarial.weight else "none"
    theirs = f"from {race.start:.0%} of the time on" if race.start < 1 else "none"
    unit = "unit length" if quantizer.l2_normalise else "free length"
    learning = {"gradient": "gradient", "moving_average": "moving averages"}[quantizer.learning]
    ours_start = f"{quantizer.start}" + (f", revived after {quantizer.revive_after}" if quantizer.revive_after else "")
    betas = f"{optimizer.beta1:g}, {optimizer.beta2:g}"
    kept = f"average of weights, {optimizer.ema_decay:g}" if optimizer.ema_decay else "last weights"
    reached = "published: 4.5e-6 a picture and 1e-4; trials"
    weight = f"{adversarial.weight:g}, " + ("adaptive" if adversarial.adaptive else "fixed")
    return [
        ("pixel loss", f"{loss.pixel} x {loss.pixel_weight:g}", "l1", "l2", own),
        ("LPIPS", f"{loss.perceptual.weight:g}", "1", "1", own),
        ("adversarial weight", weight, "0.8, adaptive", "0.5, fixed", own),
        ("discriminator", share, theirs, theirs, "published ones are for days of training; trials"),
        ("codes", unit, "free length", "unit length", own),
        ("codebook learned by", learning, "gradient", "gradient", own),
        ("first codes", ours_start, "uniform", "uniform", own),
        ("learning rate", f"{optimizer.learning_rate:g}, {optimizer.decay}", *[f"{race.rate:g}"] * 2, reached),
        ("precision", f"{config.run.precision}, LPIPS {loss.perceptual.precision}", "fp32", "bf16 if fast", own),
        ("Adam's betas", betas, "0.5, 0.9", "0.9, 0.95", own),
        ("gradients' norm clipped to", f"{optimizer.clip:g}", "no", "1", own),
        ("measured", kept, "last weights", "last weights", "vq_train.py's --ema is off by default"),
        ("sizes of pictures", sizes, "one", "one", "neither publishes progressive resolution"),
        ("forward passes a step", "1", "2", "1", own),
    ]  # fmt: skip
