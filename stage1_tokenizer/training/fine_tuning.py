"""Fine-tuning: a run that begins with a released or converted tokenizer's weights (`--init DIR`)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data.shards.index import ShardIndex
from launch.checkpoints import folders
from launch.command.cli import UserError
from launch.files.inputs import settings_of
from launch.run.folder import add_to_start, differences, plain
from launch.run.runtime import Run
from stage1_tokenizer.config.training import ModelConfig, TokenizerTrainConfig, setting_of
from stage1_tokenizer.config.video_networks import VideoNetConfig
from stage1_tokenizer.foreign import discriminator as foreign
from stage1_tokenizer.tokenizer.codec import PROJECTOR
from stage1_tokenizer.tokenizer.folder import code_weights, model_config
from stage1_tokenizer.tokenizer.opening import open_tokenizer
from stage1_tokenizer.training.inflating import check_inflated, inflated, inflated_model
from stage1_tokenizer.training.trained import Trained

_LEARNING = """
gradient learning decay commitment beta_placement start revive_after kl_weight entropy_weight entropy_diversity
entropy_temperature entropy_bits entropy_boost temperature temperature_final anneal codebook_dropout
codebook_dropout_from perturb
"""
TRAINING_ONLY = ("dropout", "seanet.block", "video.block", *(f"quantizer.{name}" for name in _LEARNING.split()))
"""Settings of a model that change how it learns or computes, not what weights mean: fine-tuning may change them."""


RANDOM = ("flip", "random_crop", "min_scale", "gain", "silence", "silence_level", "random_start")
"""Settings of transforms that matter only where something random is done to samples."""


def with_model(words: Sequence[str]) -> list[str]:
    """A command line, with the model of the tokenizer that its --init names put before all other settings.

    So settings that are left out are the tokenizer's; `check_init` compares those that are given with it.
    """
    folder, inflate = (setting_of(name, words) for name in ("init", "inflate"))
    if folder is None or not _config_file(folder):
        return list(words)
    model = model_of(folder)
    if inflate is not None:
        last = inflate == "last"
        model = inflated_model(model, VideoNetConfig(causal=last, by_frame=not last))
    return ["--config", json.dumps({"model": plain(model)}), *words]


def _config_file(folder: str) -> Path | None:
    """The configuration of a released folder or of a run; None where the folder is neither."""
    places = (Path(folder) / "config.json", Path(folder) / "config.yaml")
    return next((place for place in places if place.is_file()), None)


def model_of(folder: str) -> ModelConfig:
    """The model of a released folder or of a run, without its weights; UserError where it is neither."""
    place = _config_file(folder)
    values = settings_of(place) if place else {}
    if place is None or "model" not in values:
        raise UserError(f"init={folder} is no tokenizer: name a folder that stage1_tokenizer.release or .convert made")
    return model_config(values["model"], place)


def check_init(config: TokenizerTrainConfig) -> None:
    """Raise UserError unless a new run can begin with `config.init`; a run that has a checkpoint doesn't need it."""
    if config.init is None and config.inflate is not None:
        raise UserError(f"inflate={config.inflate} needs init, the tokenizer of pictures to begin with: set it")
    if config.init is None or folders.steps(Path(config.run.folder)):
        return
    model = model_of(config.init)
    if config.inflate is not None:
        model = inflated_model(model, config.model.video)
        check_inflated(config.model, config.inflate)
    for key, theirs, ours in differences(plain(model), plain(config.model)):
        if not key.startswith(TRAINING_ONLY):
            raise UserError(
                f"model.{key}={ours!r} differs from {theirs!r}, that of init={config.init}: remove it to use the "
                "tokenizer's"
            )


def check_codes(config: TokenizerTrainConfig, codes: ShardIndex) -> None:
    """Raise UserError unless the codes of data.codes are those of `config.init`, for samples prepared as here.

    A run that has a checkpoint doesn't need `config.init`.
    """
    what = f"data.codes={config.data.codes}"
    theirs, ours = dict(codes.meta.get("transform", {})), config.data.transform.to_dict()
    for key, before, now in differences(theirs, ours):
        if key not in RANDOM and key in theirs:
            raise UserError(f"{what} has codes of samples with data.transform.{key}={before!r}, not {now!r}: set it so")
    if config.init is None or folders.steps(Path(config.run.folder)):
        return
    fingerprint = open_tokenizer(config.init).code_fingerprint
    if codes.meta.get("tokenizer") != fingerprint:
        raise UserError(
            f"{what} has codes of the tokenizer {str(codes.meta.get('tokenizer'))[:12]}…, but init={config.init} has "
            f"those of {fingerprint[:12]}…: name the tokenizer that made them"
        )


def begin(config: TokenizerTrainConfig, trained: Trained, run: Run) -> None:
    """Load the weights of `config.init`, if it is set, into a new run, and record that in run.json.

    The first discriminator's too, if the folder has one of the same shapes; otherwise the log says why it starts anew.
    All ranks call it.
    """
    if config.init is None:
        return
    tokenizer = open_tokenizer(config.init)
    state = tokenizer.weights()
    if config.inflate is not None:
        state = inflated(state, config.model, config.inflate)
    state |= _projector(trained)
    trained.generator.load(state)
    trained.ema.load(state)
    origin = _begin_discriminator(config.init, trained)
    run.say(f"initialised from {config.init}, fingerprint {tokenizer.fingerprint}; discriminator: {origin}")
    if run.is_main:
        init: dict[str, Any] = {"folder": config.init, "fingerprint": tokenizer.fingerprint, "discriminator": origin}
        if {"encoder", "quantizer"} <= set(config.freeze) and config.inflate is None:
            init["codes"] = {"fingerprint": tokenizer.code_fingerprint, "weights": code_weights(state)}
        add_to_start(run.folder, init=init)


def _projector(trained: Trained) -> dict[str, torch.Tensor]:
    """The new weights of the run's projector, which no folder has; every rank calls it."""
    with trained.generator.gathered():
        weights = trained.generator.raw.named_parameters()
        return {name: weight.detach().clone() for name, weight in weights if name.startswith(f"{PROJECTOR}.")}


def _begin_discriminator(folder: str, trained: Trained) -> str:
    """Load the folder's discriminator into the first one if it fits; where the first one's weights are from."""
    adversaries = trained.gradients.adversaries
    if not adversaries or adversaries[0].suffix:
        return "none (loss.adversarial.weight=0)"
    weights = foreign.load(Path(folder))
    if weights is None:
        return f"new, {folder} has none"
    expected = {name: torch.empty(shape, device="meta") for name, shape in trained.discriminators[0].shapes.items()}
    if odd := foreign.differing(expected, weights):
        return f"new, the one in {folder} differs at {odd} (see loss.adversarial)"
    trained.discriminators[0].load(weights)
    return "from there too"
