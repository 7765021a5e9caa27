"""Class agreement: whether a classifier of real pictures finds samples to be of the requested class.

Shapes: B pictures, C channels, H W pixels, F features.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.media import read_transform
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from data.shards.classes import held_to, label_map
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.command.checks import named
from launch.command.cli import UserError
from stage2_prior.priors.base import Prior, weights_hash

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


def real_pictures(
    index: ShardIndex | str, transform: TransformConfig, limit: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (B,) and pixels (B, C, H, W) uint8 of an index's labelled pictures, at most `limit`, evenly spaced."""
    labels, pictures = [], []
    for batch in every_sample(index, transform, batch_size=batch_size, limit=limit):
        labels.append(batch.label_B.numpy())
        pictures.append(batch.pixels_BCHW.numpy())
    label_B, pixels_BCHW = np.concatenate(labels), np.concatenate(pictures)
    if (label_B < 0).all():
        place = index if isinstance(index, str) else index.path
        raise UserError(f"data={place} has no labels, which class_agreement needs: leave out samples and data")
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
    samples: str, data: str, held_out: str | None, prior: Prior, limit: int, batch_size: int
) -> dict[str, Any]:
    """class_agreement and real_accuracy, each with its number of pictures, and what the classifier is fitted to.

    `samples` is a folder of stage2_prior.sample, `data` an index of real training pictures, which the classifier is
    fitted to, `held_out` one of other real pictures; of both at most `limit` are read. Classes are those of `prior`, by
    name.
    """
    transform = read_transform(prior.source.transform)
    requested_B, sampled_BCHW, described = sampled_pictures(samples, transform.channels)
    if described["tokenizer"] != prior.source.tokenizer:
        raise UserError(f"samples={samples} are of another tokenizer than the prior's: sample again")
    if described.get("prior_weights") not in (None, weights_hash(prior)):
        raise UserError(f"samples={samples} are of another prior: sample again, or give the prior that they are of")
    if (requested_B < 0).any():
        raise UserError(f"samples={samples} have no class: leave out samples and data")
    classes = prior.vocabulary.classes
    of_label = {one["label"]: _class_of(one, classes, samples) for one in described["classes"]}
    requested_B = np.array([of_label[label] for label in requested_B.tolist()])
    index = load_index(data)
    identity, index = Identity.of(index), held_to(index, classes, f"data={data}", "the prior", print)
    label_B, pixels_BCHW = real_pictures(index, transform, limit, batch_size)
    if unseen := sorted(set(requested_B.tolist()) - set(label_B.tolist())):
        raise UserError(
            f"data={data} has no pictures of {named([classes[label] for label in unseen])}, which the samples show: "
            "give the pictures that the prior was trained on, or raise limit"
        )
    if len(set(label_B.tolist())) < 2:
        raise UserError(f"data={data} has pictures of one class only, which nothing tells apart: leave out data")
    classifier = fitted_classifier(label_B, pixels_BCHW)
    right_B = classifier(sampled_BCHW) == requested_B
    by_class = {
        one["name"]: float(right_B[requested_B == of_label[one["label"]]].mean()) for one in described["classes"]
    }
    results: dict[str, Any] = {
        "class_agreement": float(right_B.mean()),
        "class_agreement_by_class": by_class,
        "samples": len(requested_B),
        "classifier": "scikit-learn SVC, Gaussian kernel, on pictures of coarse pixels",
        "fitted_to": {"data": identity.brief(), "digest": identity.digest},
    }
    if held_out:
        others = held_to(load_index(held_out), classes, f"held_out={held_out}", "the prior", print)
        label_B, pixels_BCHW = real_pictures(others, transform, limit, batch_size)
        results["real_accuracy"] = float((classifier(pixels_BCHW) == label_B).mean())
        results["real_samples"] = len(label_B)
    return results


def _class_of(described: dict[str, Any], classes: Sequence[str], samples: str) -> int:
    """The prior's label of a class in samples.json, by its name; UserError where it has none of this name."""
    name, label = str(described["name"]), int(described["label"])
    if label < len(classes) and classes[label] == name:
        return label
    label_map([name], classes, f"samples={samples}", "the prior")
    return list(classes).index(name)
