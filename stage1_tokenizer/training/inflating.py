"""Inflation: the weights of a tokenizer of videos from those of a tokenizer of pictures (`--inflate last|central`).

A kernel of a picture's network becomes one slice in time of a video's kernel, whose other slices are 0 (Carreira and
Zisserman 2017, of one slice as Yu et al. 2023 have it): the last slice of causal ones, the frame itself, or the
middle one. So each frame passes through the network as a picture does. Strides of time pass over frames, and in the
decoder repeat them: what has codes is equal to the picture's, to rounding.

Legend: O outputs, I inputs of a convolution, H W and T its kernel.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from launch.command.cli import UserError
from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.config.video_networks import VideoNetConfig
from stage1_tokenizer.tokenizer.codec import Codec


def inflated_model(pictures: ModelConfig, video: VideoNetConfig) -> ModelConfig:
    """The model of videos that begins as a model of pictures; UserError where there is none."""
    if pictures.spatial_dims != 2:
        dims = pictures.spatial_dims
        raise UserError(f"inflate needs a tokenizer of pictures, but init has spatial_dims={dims}: remove inflate")
    try:
        return replace(pictures, spatial_dims=3, video=video)
    except ValueError as error:
        raise UserError(f"init can't be inflated ({error})") from error


def check_inflated(model: ModelConfig, how: str) -> None:
    """Raise UserError for settings of time with which the networks would not begin as the picture's."""
    video = model.video
    averaged = model.backbone == "conv_plus" and model.conv_plus.downsample == "pool" and max(model.time_strides) > 1
    for wrong, what, way_out in (
        (video.causal != (how == "last"), f"causal={video.causal}", "last is for causal networks, central for others"),
        (video.layers != "vqgan", f"layers={video.layers}", "set it to vqgan, which pictures have"),
        (video.haar > 1, f"haar={video.haar}", "set it to 1, pictures have no Haar patches"),
        (2 * len(video.space_strides) != sum(video.space_strides), "space_strides", "leave it out, pictures have 2"),
        (averaged and not video.causal, "time_strides", "set them to 1, as downsample=pool takes the mean of frames"),
        (not video.apart, "by_frame", "set it to true, so that norms are those of pictures"),
    ):
        if wrong:
            raise UserError(f"model.video.{what} is not supported with inflate={how}: {way_out}")


def inflated(weights: Mapping[str, Tensor], model: ModelConfig, how: str) -> dict[str, Tensor]:
    """The weights of `model`, of videos, from those of a picture's; UserError if they don't fit."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Codec(model).weights().items()}
    return {name: _inflated(name, shape, weights, how) for name, shape in shapes.items()}


def _inflated(name: str, shape: tuple[int, ...], weights: Mapping[str, Tensor], how: str) -> Tensor:
    """One tensor of the video's networks."""
    stem, _, part = name.rpartition(".")
    layer, _, kind = stem.rpartition(".")
    source = weights.get(name if name in weights else f"{layer}.{part}")
    if source is not None and name not in weights and kind == "time":
        return _along_time(shape, how, source)
    if source is not None and source.ndim == len(shape) - 1:
        kernel = source.new_zeros(*source.shape[:2], *shape[2:])
        if kernel.shape[3:] == source.shape[2:]:
            kernel[:, :, _slice(shape[2], how)] = source
            source = kernel
    if source is not None and ".upsample." in name and len(source) < shape[0] and shape[0] % len(source) == 0:
        source = source.repeat(shape[0] // len(source), *[1] * (source.ndim - 1))  # depth to space: time varies slowest
    if source is None or tuple(source.shape) != shape:
        has = "nothing" if source is None else tuple(source.shape)
        raise UserError(f"{name} of the model of videos is {shape}, init has {has} for it: check model and init")
    return source


def _along_time(shape: tuple[int, ...], how: str, like: Tensor) -> Tensor:
    """What passes frames on: the convolution along time that follows one of each frame."""
    kernel = like.new_zeros(shape)
    if len(shape) == 5:
        kernel[:, :, _slice(shape[2], how), 0, 0] = torch.eye(shape[0], dtype=like.dtype, device=like.device)
    return kernel


def _slice(width: int, how: str) -> int:
    return width - 1 if how == "last" else width // 2
