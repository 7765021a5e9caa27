"""A classifier of pictures by the features of a network that knows natural pictures (`classifier=vgg16`).

On CIFAR-10, fitted to 5,000 pictures, it is right about 73 % of others, and the one by coarse pixels about 46 %.
Shapes: B pictures, C channels, H W pixels, F features.
"""

from functools import partial

import numpy as np
import torch
from torch import nn

from data.pictures.transforms import to_float
from stage1_tokenizer.layers.precision import ieee
from stage1_tokenizer.losses.lpips import LPIPS, load_lpips
from stage2_prior.measuring.classifier import PICTURES, Classified, Classifier

REGULARISATION = 0.01
"""scikit-learn's C."""
AT_ONCE = 100
"""Pictures that pass the network at once."""
SMALLEST = 32
"""Pictures are enlarged to at least this side, as the network halves them four times."""


def by_vgg16(weights: str | None = None) -> Classified:
    """How pictures are classified by VGG16's features; `weights` is a file as `vgg_weights` takes it."""
    return Classified(
        what="scikit-learn LogisticRegression on LPIPS's five layers of VGG16 (ImageNet), each a mean over positions",
        values=PICTURES.values,
        read=PICTURES.read,
        fitted=partial(_fitted, weights),
    )


def _fitted(weights: str | None, label_B: np.ndarray, pixels_BCHW: np.ndarray, _: object = None) -> Classifier:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = load_lpips("vgg", weights).eval()
    machine = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=1000))
    machine.fit(features(network, pixels_BCHW), label_B)
    return lambda pixels_BCHW: machine.predict(features(network, pixels_BCHW))


@ieee()
@torch.no_grad()
def features(network: LPIPS, pixels_BCHW: np.ndarray) -> np.ndarray:
    """The layers' outputs of uint8 pictures of 1 or 3 channels, each a mean over positions, float32 (B, F)."""
    found = []
    for part_BCHW in torch.from_numpy(pixels_BCHW).split(AT_ONCE):
        x_BCHW = to_float(part_BCHW)
        if (side := min(x_BCHW.shape[2:])) < SMALLEST:
            x_BCHW = nn.functional.interpolate(x_BCHW, scale_factor=SMALLEST / side, mode="bilinear")
        found.append(torch.cat([tap_BCHW.mean((2, 3)) for tap_BCHW in network.features(x_BCHW)], dim=1))
    return torch.cat(found).numpy()
