"""Discriminators: pictures to logits, positive for real ones. `build_discriminator` makes what is configured."""

from __future__ import annotations

from torch import nn

from launch.command.cli import UserError
from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.dino import ProjectedDiscriminator
from stage1_tokenizer.discriminators.dino_vit import load_vit
from stage1_tokenizer.discriminators.norms import BatchNorm
from stage1_tokenizer.discriminators.patch import Discriminator
from stage1_tokenizer.discriminators.stylegan import ResidualDiscriminator

__all__ = [
    "BatchNorm",
    "Discriminator",
    "ProjectedDiscriminator",
    "ResidualDiscriminator",
    "build_discriminator",
    "check_discriminator",
]


def build_discriminator(config: AdversarialConfig, in_channels: int, spatial_dims: int = 2) -> nn.Module:
    """The discriminator that `config.discriminator` names; only what it trains are parameters.

    Raises ValueError where it doesn't take such pictures, and UserError for a file of weights that is none.
    """
    config.check_pictures(in_channels, spatial_dims)
    if config.discriminator == "stylegan":
        return ResidualDiscriminator(config, in_channels)
    if config.discriminator == "dino":
        assert config.weights is not None
        return ProjectedDiscriminator(config, load_vit(config.weights))
    return Discriminator(config, in_channels, spatial_dims)


def check_discriminator(config: AdversarialConfig, batch_size: int, world_size: int) -> None:
    """Raise UserError where the discriminator's weights aren't there, or its groups don't fit into a rank's batch."""
    pictures = batch_size // world_size
    if not config.weight:
        return
    if config.discriminator == "stylegan" and pictures % config.group:
        raise UserError(
            f"loss.adversarial.group={config.group} does not divide the {pictures} pictures of each rank "
            f"(data.batch_size={batch_size} on {world_size}): set it to a divisor of them, or to 1 for no groups"
        )
    if config.weights is not None:
        load_vit(config.weights)
