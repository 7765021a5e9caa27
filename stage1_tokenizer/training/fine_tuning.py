"""Fine-tuning: a run that begins with a released or converted tokenizer's weights (`--init DIR`)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.command.cli import UserError
from launch.run.folder import differences, plain
from stage1_tokenizer.config.training import ModelConfig, TokenizerTrainConfig

if TYPE_CHECKING:
    from launch.run.runtime import Run
    from stage1_tokenizer.training.trained import Parts

TRAINING_ONLY = (
    "dropout",
    *(
        f"quantizer.{name}"
        for name in (
            *("gradient", "learning", "decay", "commitment", "beta_placement", "start", "revive_after", "kl_weight"),
            *("entropy_weight", "entropy_diversity", "entropy_temperature", "entropy_bits", "entropy_boost"),
            *("temperature", "temperature_final", "anneal"),
        )
    ),
)
"""Settings of a model that change how it learns, not what its weights mean: a fine-tuning may set them anew."""


def with_model(words: Sequence[str]) -> list[str]:
    """A command line with the model of the tokenizer that its --init names, before all other settings.

    So those that are left out are the tokenizer's; those that are given are held against it by `check_init`.
    """
    folder = _named(words)
    if folder is None or not _config_file(folder):
        return list(words)
    return ["--config", json.dumps({"model": plain(model_of(folder))}), *words]


def _named(words: Sequence[str]) -> str | None:
    """The value of `init` on a command line, or in the configuration files that it names; the last one counts."""
    import yaml

    found: str | None = None
    joined = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for name, value in itertools.pairwise(joined):
        if name == "--init":
            found = None if value == "null" else value
        elif name == "--config" and Path(value).is_file():
            try:
                settings = yaml.safe_load(Path(value).read_text())
            except yaml.YAMLError:
                continue  # what is wrong with it is told where it is read
            if isinstance(settings, dict) and "init" in settings:
                found = settings["init"]
    return found


def _config_file(folder: str) -> Path | None:
    """What tells the model of a released folder or of a run; None where it is neither."""
    places = (Path(folder) / "config.json", Path(folder) / "config.yaml")
    return next((place for place in places if place.is_file()), None)


def model_of(folder: str) -> ModelConfig:
    """The model of a released folder or of a run, without its weights; UserError where it is neither."""
    import yaml

    from stage1_tokenizer.tokenizer.folder import model_config

    place = _config_file(folder)
    values = yaml.safe_load(place.read_text()) if place else None
    if place is None or not isinstance(values, dict) or "model" not in values:
        raise UserError(f"init={folder} is no tokenizer: name a folder that stage1_tokenizer.release or .convert made")
    return model_config(values["model"], place)


def check_init(config: TokenizerTrainConfig) -> None:
    """Raise UserError unless a new run can begin with `config.init`; one that has a checkpoint doesn't need it."""
    from launch.checkpoints import folders

    if config.init is None or folders.steps(Path(config.run.folder)):
        return
    for key, theirs, ours in differences(plain(model_of(config.init)), plain(config.model)):
        if not key.startswith(TRAINING_ONLY):
            raise UserError(
                f"model.{key}={ours!r} differs from {theirs!r}, that of init={config.init}: leave it out, and it is "
                f"taken from there"
            )


def begin(config: TokenizerTrainConfig, parts: Parts, this: Run) -> None:
    """Put the weights of `config.init`, where there is one, into a run that has none yet; run.json tells of them.

    The discriminator's too, if the folder has one of the same shapes; else the log says why it begins anew. Every rank
    calls it.
    """
    from launch.run.folder import add_to_start
    from stage1_tokenizer.tokenizer.opening import open_tokenizer

    if config.init is None:
        return
    tokenizer = open_tokenizer(config.init)
    state = tokenizer.weights()
    for into in (parts.tokenizer, parts.ema.tokenizer):
        into.load_state_dict(state)
    told = _begin_discriminator(config.init, parts)
    this.say(f"begun with {config.init}, fingerprint {tokenizer.fingerprint}; discriminator: {told}")
    if this.is_main:
        began: dict[str, Any] = {"folder": config.init, "fingerprint": tokenizer.fingerprint, "discriminator": told}
        add_to_start(this.folder, init=began)


def _begin_discriminator(folder: str, parts: Parts) -> str:
    """Load it where it fits; what became of it."""
    from stage1_tokenizer.foreign import discriminator as judge

    if parts.discriminator is None:
        return "none (loss.adversarial.weight=0)"
    carried = judge.load(Path(folder))
    if carried is None:
        return f"new, {folder} has none"
    network = parts.discriminator.raw
    if odd := judge.differing(network.state_dict(), carried):
        return f"new, the one in {folder} differs at {odd} (see loss.adversarial)"
    network.load_state_dict(carried)
    return "from there too"
