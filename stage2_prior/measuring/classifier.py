"""Class agreement: whether a classifier of real pictures finds samples to be of the requested class.

Shapes: B pictures, C channels, H W pixels, F features.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.media import read_transform
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource

FEATURE_SIDE = 16
"""Pictures are shrunk to at most this side before they are classified."""


def features(pixels_BCHW: np.ndarray) -> np.ndarray:
    """What the classifier sees of uint8 pictures, float32 (B, F): the picture's means over a coarse grid, in [0, 1]."""
    side = pixels_BCHW.shape[-1]
    step = max(1, side // FEATURE_SIDE)
    kept = side // step * step
    x_BCHW = pixels_BCHW[..., :kept, :kept].astype(np.float32) / 255
    cells = kept // step
    x_BChswt = x_BCHW.reshape(*x_BCHW.shape[:2], cells, step, cells, step)
    return x_BChswt.mean(axis=(3, 5)).reshape(len(x_BCHW), -1)


def fitted_classifier(label_B: np.ndarray, pixels_BCHW: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A support-vector machine with a Gaussian kernel on coarse pictures; it gives pictures' likeliest labels, (B,)."""
    from sklearn.svm import SVC

    machine = SVC(C=10.0, gamma="scale", cache_size=500).fit(features(pixels_BCHW), label_B)
    return lambda pixels_BCHW: machine.predict(features(pixels_BCHW))


def real_pictures(index: str, transform: TransformConfig, limit: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (B,) and pixels (B, C, H, W) uint8 of an index's labelled pictures, at most `limit`, evenly spaced."""
    labels, pictures = [], []
    for batch in every_sample(index, transform, batch_size=batch_size, limit=limit):
        labels.append(batch.label_B.numpy())
        pictures.append(batch.pixels_BCHW.numpy())
    label_B, pixels_BCHW = np.concatenate(labels), np.concatenate(pictures)
    if (label_B < 0).all():
        raise UserError(f"data={index} has no labels, which class_agreement needs: leave out samples and data")
    return label_B[label_B >= 0], pixels_BCHW[label_B >= 0]


def sampled_pictures(folder: str, channels: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels (B,), pixels (B, C, H, W) uint8 and samples.json of a finished sampling."""
    file = Path(folder) / "samples.json"
    described = json.loads(file.read_text()) if file.exists() else {}
    if not described.get("complete"):
        raise UserError(f"samples={folder} holds no finished samples: run stage2_prior.sample there first, to its end")
    labels, pictures = [], []
    for one in described["classes"]:
        for number in range(one["count"]):
            image = Image.open(Path(folder) / one["folder"] / f"{number:05d}.png")
            pixels_HWC = np.atleast_3d(np.asarray(image.convert("L" if channels == 1 else "RGB")))
            pictures.append(pixels_HWC.transpose(2, 0, 1))
            labels.append(one["label"])
    return np.array(labels), np.stack(pictures), described


def agreement(
    samples: str, data: str, held_out: str | None, source: CodeSource, limit: int, batch_size: int
) -> dict[str, Any]:
    """class_agreement and real_accuracy, each with its number of pictures.

    `samples` is a folder of stage2_prior.sample, `data` an index of real training pictures, which the classifier is
    fitted to, `held_out` one of other real pictures; of both at most `limit` are read.
    """
    transform = read_transform(source.transform)
    requested_B, sampled_BCHW, described = sampled_pictures(samples, transform.channels)
    if described["tokenizer"] != source.tokenizer:
        raise UserError(f"samples={samples} are of another tokenizer than the prior's: sample again")
    if (requested_B < 0).any():
        raise UserError(f"samples={samples} have no class: leave out samples and data")
    classifier = fitted_classifier(*real_pictures(data, transform, limit, batch_size))
    right_B = classifier(sampled_BCHW) == requested_B
    by_class = {one["name"]: float(right_B[requested_B == one["label"]].mean()) for one in described["classes"]}
    results: dict[str, Any] = {
        "class_agreement": float(right_B.mean()),
        "class_agreement_by_class": by_class,
        "samples": len(requested_B),
        "classifier": "scikit-learn SVC, Gaussian kernel, on pictures of coarse pixels",
    }
    if held_out:
        label_B, pixels_BCHW = real_pictures(held_out, transform, limit, batch_size)
        results["real_accuracy"] = float((classifier(pixels_BCHW) == label_B).mean())
        results["real_samples"] = len(label_B)
    return results
