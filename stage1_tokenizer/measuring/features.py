"""Feature networks for distances between sets of pictures, each identified by its weights' hash.

inception   the network of FID: its pool3 layer, ADM's spatial features and logits (torch-fidelity's port of the
            TensorFlow graph of 2015-12-05, which resizes pictures to 299 as TensorFlow 1 did)
vgg16       LPIPS's VGG16 (torchvision's ImageNet weights): its relu5_3, mean over positions; always available

Only figures of the original Inception weights are called `fid`, `sfid`, `kid`, …; those of other networks and weights
carry their name. Legend: B batch, C channels, H W pixels, D features.
"""

import hashlib
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from data.pictures.transforms import to_float
from launch.command.cli import UserError, one_line
from launch.files.downloads import answered_within
from stage1_tokenizer.layers.frozen import FrozenConv2d
from stage1_tokenizer.layers.precision import ieee
from stage1_tokenizer.losses.lpips import LPIPS, load_lpips

FeatureName = Literal["vgg16", "inception", "i3d", "none"]

FID_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Hash of the file with FID's weights, the same in pytorch-fid and torch-fidelity."""
_FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_FILES[1]}"

SPATIAL_CHANNELS = 7
"""Channels of mixed_6/conv in ADM's sFID: 17·17·7 = 2023 numbers, about as many as FID's 2048."""

SMALLEST = 16
"""Smallest side of a picture that VGG16's relu5_3 accepts."""


class FeatureNetwork(nn.Module):
    """A frozen network that gives features of uint8 pictures."""

    about: dict[str, Any]
    """network, layers, sha256 of the weights, resize: must be equal in comparable results (JSON values)."""
    names: dict[str, str]
    """Names of its figures: frechet, kid, precision, recall; of Inception also spatial and score."""
    widths: dict[str, int]
    """Width of each kind of feature: pool; of Inception also spatial and logits."""

    def forward(self, pixels_BCHW: Tensor) -> dict[str, Tensor]:
        """Features of uint8 pictures of 1 or 3 channels by kind, (B, D) float32 each."""
        raise NotImplementedError


class Vgg16(FeatureNetwork):
    """relu5_3 of LPIPS's VGG16, mean over positions, for pictures at their own size."""

    def __init__(self, lpips: LPIPS):
        super().__init__()
        self.lpips = lpips
        digest = hashlib.sha256()
        for layer in cast("Sequence[FrozenConv2d]", lpips.layers):
            for tensor in (layer.weight, layer.bias):
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        self.about = {
            "network": "vgg16 (ImageNet, torchvision), as LPIPS uses it",
            "layers": "relu5_3, mean over positions",
            "sha256": digest.hexdigest(),
            "resize": "none: pictures at their own size",
        }
        self.names = {name: f"{name}_vgg16" for name in ("frechet", "kid", "precision", "recall")}
        self.widths = {"pool": 512}

    def forward(self, pixels_BCHW: Tensor) -> dict[str, Tensor]:
        """Features of uint8 pictures, see FeatureNetwork. UserError for pictures smaller than SMALLEST."""
        if min(pixels_BCHW.shape[2:]) < SMALLEST:
            raise UserError(
                f"pictures of {pixels_BCHW.shape[3]}x{pixels_BCHW.shape[2]} are too small for vgg16 features, which "
                f"need {SMALLEST}: set features to none or inception"
            )
        return self.of_taps(self.lpips.features(to_float(pixels_BCHW)))

    @staticmethod
    def of_taps(taps: list[Tensor]) -> dict[str, Tensor]:
        """The same features from the output of LPIPS.features."""
        return {"pool": taps[-1].mean((2, 3))}


class Inception(FeatureNetwork):
    """FID's Inception from the bytes of its weight file; figures of other weights carry the weights' hash."""

    def __init__(self, weights: bytes, origin: str):
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        sha256 = hashlib.sha256(weights).hexdigest()
        try:
            torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)  # refuses files with code in them
            self.net = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], io.BytesIO(weights)
            )
        except (pickle.UnpicklingError, RuntimeError, KeyError, EOFError, AttributeError, TypeError) as error:
            raise UserError(
                f"inception_weights={origin} does not hold the weights of FID's Inception "
                f"({one_line(error, 160)}): give {_FILES[0]}"
            ) from error
        self.net.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)
        self._spatial_BD = torch.empty(0)
        original = sha256 == FID_SHA256
        self.about = {
            "network": "FID's Inception (2015-12-05)" if original else "FID's Inception with other weights than FID's",
            "layers": "pool3; first 7 channels of mixed_6/conv; logits without bias",
            "sha256": sha256,
            "resize": "to 299, bilinear without antialiasing, as TensorFlow 1 (torch-fidelity)",
        }
        own = {"frechet": "fid", "spatial": "sfid", "score": "inception_score"}
        kinds = (*own, "kid", "precision", "recall")
        self.names = {name: own.get(name, name) if original else f"{name}_inception_{sha256[:8]}" for name in kinds}
        self.widths = {"pool": 2048, "spatial": 17 * 17 * SPATIAL_CHANNELS, "logits": 1008}

    def _keep_spatial(self, module: nn.Module, inputs: Any, h_BCHW: Tensor) -> None:
        """Keep the spatial features in ADM's order: height, width, channels."""
        self._spatial_BD = h_BCHW[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    @ieee()
    def forward(self, pixels_BCHW: Tensor) -> dict[str, Tensor]:
        """Features of uint8 pictures, see FeatureNetwork; grey ones as RGB."""
        pool_BD, logits_BD = self.net(pixels_BCHW.expand(-1, 3, -1, -1))
        return {"pool": pool_BD, "spatial": self._spatial_BD, "logits": logits_BD}


def load_network(
    name: FeatureName,
    *,
    inception_weights: str | None = None,
    vgg_weights: str | None = None,
    lpips: LPIPS | None = None,
) -> FeatureNetwork | None:
    """The network of that name, on the CPU; None for `none`.

    `lpips`, if it is of VGG16, shares its weights. Raises UserError with the ways out if there are no weights, and for
    a network of clips.
    """
    if name == "none":
        return None
    if name == "i3d":
        raise UserError("features=i3d is for videos: set it to vgg16, inception or none")
    if name == "inception":
        path = _find_inception(inception_weights)
        return Inception(path.read_bytes(), str(path)).eval()
    return Vgg16(lpips if lpips is not None and lpips.net == "vgg" else load_lpips("vgg", vgg_weights)).eval()


def _find_inception(path: str | None) -> Path:
    """The file with FID's weights: `path`, one in torch hub's cache, or a download into it."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    ways = f"set inception_weights to {_FILES[0]}, put it into {folder}, or set features to vgg16"
    if path is not None:
        if not Path(path).is_file():
            raise UserError(f"inception_weights={path} is not a file: {ways}")
        return Path(path)
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with answered_within(20):
            torch.hub.download_url_to_file(_URL, str(folder / _FILES[1]), hash_prefix=FID_SHA256[:8])
    except (OSError, RuntimeError) as error:
        raise UserError(f"FID's Inception weights are not here and their download failed ({error}): {ways}") from error
    return folder / _FILES[1]
