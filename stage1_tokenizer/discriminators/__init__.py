"""Discriminators: samples to logits, positive for real ones; `build_discriminator` builds the configured one.

Those of sounds have several parts and return a `Verdict` (`verdict.py`), with features for feature matching.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from launch.command.cli import UserError
from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.bands import Resolution
from stage1_tokenizer.discriminators.dino import ProjectedDiscriminator
from stage1_tokenizer.discriminators.dino_vit import load_vit
from stage1_tokenizer.discriminators.patch import Discriminator
from stage1_tokenizer.discriminators.periods import Period
from stage1_tokenizer.discriminators.sound_layers import SoundDiscriminator
from stage1_tokenizer.discriminators.stft import Scale
from stage1_tokenizer.discriminators.stylegan import ResidualDiscriminator
from stage1_tokenizer.layers.video import frames_of

__all__ = ["DISCRIMINATORS", "Discriminator", "build_discriminator", "check_discriminator"]

DISCRIMINATORS: dict[str, Callable[[AdversarialConfig, int, int], nn.Module]] = {
    "patch": Discriminator,
    "stylegan": lambda config, in_channels, _: ResidualDiscriminator(config, in_channels),
    "dino": lambda config, *_: ProjectedDiscriminator(config, load_vit(str(config.weights))),
    "periods": lambda config, in_channels, _: SoundDiscriminator(
        config.peak, (Period(config, in_channels, period) for period in config.periods)
    ),
    "bands": lambda config, in_channels, _: SoundDiscriminator(
        config.peak, (Resolution(config, in_channels, window) for window in config.sizes)
    ),
    "stft": lambda config, in_channels, _: SoundDiscriminator(
        config.peak, (Scale(config, in_channels, window) for window in config.sizes)
    ),
}
"""Constructors by name in the configuration; arguments: settings, channels and spatial axes of the samples."""


def build_discriminator(config: AdversarialConfig, in_channels: int, spatial_dims: int = 2) -> nn.Module:
    """The discriminator that `config.discriminator` names; frozen weights are not among its parameters.

    Raises ValueError if it does not support such samples, and UserError if its file has no such weights.
    """
    config.check_samples(in_channels, spatial_dims)
    if not config.per_frame:
        return DISCRIMINATORS[config.discriminator](config, in_channels, spatial_dims)
    of_pictures = DISCRIMINATORS[config.discriminator](config, in_channels, 2)
    of_pictures.register_forward_pre_hook(_as_frames)
    return of_pictures


def _as_frames(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Clips (B, C, T, H, W) as a batch of frames, for a discriminator of pictures, whose weights keep their names."""
    return tuple(frames_of(clips) for clips in inputs)


def check_discriminator(config: AdversarialConfig, batch_size: int, world_size: int) -> None:
    """Raise UserError if the discriminator's weights are missing, or its groups do not divide the batch of a rank."""
    if not config.weight:
        return
    pictures = batch_size // world_size
    if config.discriminator == "stylegan" and pictures % config.group:
        raise UserError(
            f"loss.adversarial.group={config.group} does not divide the {pictures} pictures of each rank "
            f"(data.batch_size={batch_size} on {world_size}): set it to a divisor of them, or to 1 for no groups"
        )
    if config.weights is not None:
        load_vit(config.weights)
