"""What stage two needs to know of each kind of sample: the networks' input, and how samples are written and shown.

Shapes: B samples, C channels, then a sample's own axes ("…").
"""

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from data.pictures.decode import opened
from data.pictures.transforms import to_float
from data.shards import signature
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.tokenizer.pil import as_batch


@dataclass(frozen=True)
class SampleKind:
    """How stage two handles samples of one kind."""

    name: str
    """As in indexes and transforms; also what they are called in messages."""
    suffix: str
    """Of a sample's file."""
    input: Callable[[Any, torch.device], Tensor]
    """The networks' input, x_BC… in [-1, 1], of a batch of the stream; on a device."""
    decoded: Callable[[Tokenizer, Tensor], Sequence[Any]]
    """Decoded samples x_BC… as what writes itself, by `save(path)`."""
    picture: Callable[[Any], Image.Image]
    """A picture that shows one of `decoded`."""
    extensions: tuple[str, ...]
    """Of files that may hold one."""
    read: Callable[[bytes, Any], tuple[Tensor, tuple[int, ...]]]
    """A file's contents as a transform prepares them, x_BC… with B = 1, and the sizes of the file's own axes (width and
    height of a picture). Any exception where they are damaged."""
    empty: float
    """Value in [-1, 1] of what isn't there."""
    load: Callable[[Path, Any], Any] | None = None
    """Of what moves: a written sample of a transform as one of `decoded`."""
    moving_grid: Callable[[Sequence[Sequence[Any]]], bytes] | None = None
    """Of what moves: rows of `decoded` as one moving picture, a WebP."""

    def written(self, file: Path) -> Image.Image:
        """A picture that shows a sample in a file; that of a sound or video lies beside it."""
        return Image.open(file.with_suffix(".png"))


def _pixels(batch: Any, device: torch.device) -> Tensor:
    return to_float(batch.pixels_BCHW.to(device))


def _picture(contents: bytes, transform: Any) -> tuple[Tensor, tuple[int, ...]]:
    with opened(contents) as image:
        return as_batch(image, transform), ImageOps.exif_transpose(image).size


PICTURES = SampleKind(
    name="pictures",
    suffix=".png",
    input=_pixels,
    decoded=lambda tokenizer, x_BCHW: tokenizer.to_pil(x_BCHW),
    picture=lambda image: image,
    extensions=signature.PICTURES,
    read=_picture,
    empty=0.5,
)

_KINDS = {
    "pictures": "stage2_prior.codes.kinds:PICTURES",
    "sounds": "stage2_prior.codes.sounds:SOUNDS",
    "videos": "stage2_prior.codes.videos:VIDEOS",
}
"""Named, as reading and writing sounds and videos needs libraries that others don't."""


def sample_kind(name: str) -> SampleKind:
    """The kind of that name, as a transform has it; UserError for one whose codes no prior is over."""
    if name not in _KINDS:
        raise UserError(f"kind={name} has no priors: choose samples of {', '.join(_KINDS)}")
    kind: SampleKind = pkgutil.resolve_name(_KINDS[name])
    return kind
