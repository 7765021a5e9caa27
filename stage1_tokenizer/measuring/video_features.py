"""Feature networks for distances between sets of clips, each identified by its weights' hash.

vgg16   LPIPS's VGG16 on single frames and on differences of neighbouring ones; always available (frechet_video_vgg16)
i3d     the network of a published Fréchet video distance, from a file that its hash proves to be that one

Only figures of a proven file are called `fvd_…`: there are two files that give different values, and no value is called
FVD alone. Legend: B batch, C channels, T frames, H W pixels, D features; F frames of all clips.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.pictures.transforms import to_float
from launch.command.cli import UserError
from stage1_tokenizer.layers.video import frames_of
from stage1_tokenizer.losses.lpips import LPIPS, load_lpips
from stage1_tokenizer.measuring.features import SMALLEST, FeatureNetwork, Vgg16
from stage1_tokenizer.measuring.video_metrics import of_clips

AT_ONCE = 2**19
"""Pixels in a network at once, of at least one clip: their features are large."""

STYLEGANV = "93daef59c7ae0e9e8f76225521407e60cbafa6aa"
"""Git's id of `i3d_torchscript.pt`, with which StyleGAN-V and LARP measure."""
VIDEOGPT = "a867b87ac3a9097d200598b1d48a1b890d8ec744"
"""That of `i3d_pretrained_400.pt`, with which VideoGPT, TATS and OmniTokenizer measure."""

I3D_FILE = "i3d_torchscript.pt"

LEAST_FRAMES = 10
"""Of a clip for I3D, which halves time three times."""


class VideoVgg16(FeatureNetwork):
    """VGG16's relu5_3, mean over positions and frames, of the frames and of half of their differences; 1024 numbers."""

    def __init__(self, lpips: LPIPS):
        super().__init__()
        self.frame = Vgg16(lpips)
        kinds = "of frames and of half the differences of neighbouring frames, mean over frames"
        self.about = {**self.frame.about, "layers": f"{self.frame.about['layers']}, {kinds}"}
        self.names = {name: f"{name}_video_vgg16" for name in ("frechet", "kid", "precision", "recall")}
        self.widths = {"pool": 1024}

    def forward(self, pixels_BCTHW: Tensor) -> dict[str, Tensor]:
        """Features of uint8 clips of 2 frames or more, see FeatureNetwork. UserError for smaller ones."""
        found = [self.of_part(to_float(part_BCTHW)) for part_BCTHW in in_parts(pixels_BCTHW)]
        return {"pool": torch.cat(found)}

    def of_part(self, x_BCTHW: Tensor, taps: list[Tensor] | None = None) -> Tensor:
        """Features h_BD of a few clips in [-1, 1]; `taps` are what LPIPS.features gave for their frames, if known."""
        check_clips(x_BCTHW.shape[2:], 2, SMALLEST, "vgg16")
        lpips = self.frame.lpips
        of_frames = taps or lpips.features(frames_of(x_BCTHW))
        of_differences = lpips.features(frames_of(x_BCTHW.diff(dim=2) / 2))
        pairs = ((of_frames, x_BCTHW.shape[2]), (of_differences, x_BCTHW.shape[2] - 1))
        return torch.cat([of_clips(Vgg16.of_taps(each)["pool"], frames) for each, frames in pairs], 1)


class I3d(FeatureNetwork):
    """StyleGAN-V's I3D: 400 logits of Kinetics, from the bytes of its file, a TorchScript module."""

    def __init__(self, contents: bytes):
        super().__init__()
        self.net = torch.jit.load(io.BytesIO(contents), map_location="cpu").eval()
        self.about = {
            "network": "I3D (Kinetics-400), StyleGAN-V's file",
            "layers": "400 logits",
            "sha256": hashlib.sha256(contents).hexdigest(),
            "resize": "bilinear to 224, in the network",
        }
        self.names = {"frechet": "fvd_styleganv", "kid": "kvd_styleganv"}
        self.names |= {name: f"{name}_i3d_styleganv" for name in ("precision", "recall")}
        self.widths = {"pool": 400}

    def forward(self, pixels_BCTHW: Tensor) -> dict[str, Tensor]:
        """Features of uint8 clips, see FeatureNetwork. UserError for clips of fewer frames than LEAST_FRAMES."""
        check_clips(pixels_BCTHW.shape[2:], LEAST_FRAMES, 1, "i3d")
        options = {"rescale": True, "resize": True, "return_features": True}
        x_BCTHW = pixels_BCTHW.float().expand(-1, 3, -1, -1, -1)
        return {"pool": torch.cat([self.net(part_BCTHW, **options) for part_BCTHW in in_parts(x_BCTHW)])}


def in_parts(x_BCTHW: Tensor) -> tuple[Tensor, ...]:
    """Some clips at a time, of AT_ONCE pixels together."""
    return x_BCTHW.split(max(1, AT_ONCE // x_BCTHW[0, 0].numel()))


def check_clips(sizes: Any, frames: int, side: int, name: str) -> None:
    """UserError for clips (T, H, W) that are too short or too small for a network's features."""
    if sizes[0] < frames or min(sizes[1:]) < side:
        raise UserError(
            f"clips of {sizes[0]} frames of {sizes[2]}x{sizes[1]} pixels are too small for {name} features, which need "
            f"{frames} frames and {side} pixels: set features to none"
        )


def blob_id(contents: bytes) -> str:
    """Git's id of a file's contents: sha1 of `blob SIZE`, a zero byte and the contents."""
    return hashlib.sha1(f"blob {len(contents)}\0".encode() + contents, usedforsecurity=False).hexdigest()


def load_video_network(
    name: str, lpips: LPIPS | None, vgg_weights: str | None = None, i3d_weights: str | None = None
) -> FeatureNetwork | None:
    """The network of clips' features, on the CPU; None for `none`. `lpips`, if it is of VGG16, shares its weights.

    UserError for a network of pictures, and for an I3D file whose hash isn't that of a published one.
    """
    if name == "none":
        return None
    if name == "vgg16":
        return VideoVgg16(lpips if lpips is not None and lpips.net == "vgg" else load_lpips("vgg", vgg_weights)).eval()
    if name != "i3d":
        raise UserError(f"features={name} is for pictures: set it to vgg16, i3d or none")
    if i3d_weights is None:
        raise UserError(f"features=i3d needs i3d_weights, the file {I3D_FILE}: set it, or features to vgg16")
    try:
        contents = Path(i3d_weights).read_bytes()
    except OSError as error:
        raise UserError(f"i3d_weights={i3d_weights} can't be read ({error.strerror}): give {I3D_FILE}") from error
    found = blob_id(contents)
    if found == VIDEOGPT:
        raise UserError(
            f"i3d_weights={i3d_weights} is VideoGPT's file, whose distance isn't supported: give {I3D_FILE}"
        )
    if found != STYLEGANV:
        raise UserError(
            f"i3d_weights={i3d_weights} is not the file that fvd_styleganv is measured with (its git blob id is "
            f"{found[:12]}…, not {STYLEGANV[:12]}…): give {I3D_FILE}, or set features to vgg16"
        )
    return I3d(contents)
