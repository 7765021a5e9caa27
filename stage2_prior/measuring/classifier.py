"""Class agreement: whether a classifier of real pictures (or others) finds samples to be of the requested class.

Shapes: B samples, C channels, H W pixels, F features; of sounds T stands for H W, of videos T H W.
"""

import json
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.media import Transform, read_transform
from data.reading.stream import every_sample
from data.shards.classes import held_to, label_map
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.command.checks import named
from launch.command.cli import UserError
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.priors.base import Prior, weights_hash

Classifier = Callable[[np.ndarray], np.ndarray]
"""The likeliest labels (B,) of samples."""

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


def fitted_classifier(label_B: np.ndarray, pixels_BCHW: np.ndarray, _: Any = None) -> Classifier:
    """A support-vector machine with a Gaussian kernel on coarse pictures; it gives pictures' likeliest labels, (B,)."""
    from sklearn.svm import SVC

    machine = SVC(C=10.0, gamma="scale", cache_size=500).fit(features(pixels_BCHW), label_B)
    return lambda pixels_BCHW: machine.predict(features(pixels_BCHW))


def _picture(file: Path, transform: Any) -> np.ndarray:
    pixels_HWC = np.atleast_3d(np.asarray(Image.open(file).convert("L" if transform.channels == 1 else "RGB")))
    return pixels_HWC.transpose(2, 0, 1)


@dataclass(frozen=True)
class Classified:
    """How samples of one kind are classified."""

    what: str
    """The classifier in words."""
    values: Callable[[Any], np.ndarray]
    """The samples of a batch of the stream, stored as they are: x_BC…."""
    read: Callable[[Path, Any], np.ndarray]
    """The same of a written sample of a transform, x_C…."""
    fitted: Callable[[np.ndarray, np.ndarray, Any], Classifier]
    """A classifier fitted to labels (B,) and samples of a transform."""


PICTURES = Classified(
    what="scikit-learn SVC, Gaussian kernel, on pictures of coarse pixels",
    values=lambda batch: batch.pixels_BCHW.numpy(),
    read=_picture,
    fitted=fitted_classifier,
)

_KINDS = {
    "pictures": "stage2_prior.measuring.classifier:PICTURES",
    "sounds": "stage2_prior.measuring.sound_classifier:SOUNDS",
    "videos": "stage2_prior.measuring.video_classifier:VIDEOS",
}


def classified(kind: str) -> Classified:
    """How samples of a kind are classified."""
    found: Classified = pkgutil.resolve_name(_KINDS[kind])
    return found


def real_samples(
    index: ShardIndex | str, transform: Transform, limit: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (B,) and samples, such as uint8 pixels (B, C, H, W), of an index's labelled ones, evenly spaced."""
    labels, samples, kind = [], [], classified(transform.kind)
    for batch in every_sample(index, transform, batch_size=batch_size, limit=limit):
        labels.append(batch.label_B.numpy())
        samples.append(kind.values(batch))
    label_B, x_BCHW = np.concatenate(labels), np.concatenate(samples)
    if (label_B < 0).all():
        place = index if isinstance(index, str) else index.path
        raise UserError(f"data={place} has no labels, which class_agreement needs: leave out samples and data")
    return label_B[label_B >= 0], x_BCHW[label_B >= 0]


def drawn_samples(folder: str, transform: Transform) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels (B,), samples such as pixels (B, C, H, W) uint8, and samples.json of a finished sampling."""
    file = Path(folder) / "samples.json"
    described = json.loads(file.read_text()) if file.exists() else {}
    if not described.get("complete"):
        raise UserError(f"samples={folder} holds no finished samples: run stage2_prior.sample there first, to its end")
    labels, samples, suffix = [], [], sample_kind(transform.kind).suffix
    for one in described["classes"]:
        for number in range(one["count"]):
            file = Path(folder) / one["folder"] / f"{number:05d}{suffix}"
            samples.append(classified(transform.kind).read(file, transform))
            labels.append(one["label"])
    return np.array(labels), np.stack(samples), described


def agreement(
    samples: str,
    data: str,
    held_out: str | None,
    prior: Prior,
    limit: int,
    batch_size: int,
    kind: Classified | None = None,
) -> dict[str, Any]:
    """class_agreement and real_accuracy, each with its number of samples, and what the classifier is fitted to.

    `samples` is a folder of stage2_prior.sample, `data` an index of real training pictures, which the classifier is
    fitted to, `held_out` one of other real pictures; of both at most `limit` are read. Classes are those of `prior`, by
    name. `kind` is how samples are classified, by default that of the prior's kind.
    """
    transform = read_transform(prior.source.transform)
    requested_B, sampled_BCHW, described = drawn_samples(samples, transform)
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
    label_B, x_BCHW = real_samples(index, transform, limit, batch_size)
    if unseen := sorted(set(requested_B.tolist()) - set(label_B.tolist())):
        raise UserError(
            f"data={data} has no {transform.kind} of {named([classes[label] for label in unseen])}, which the samples "
            f"show: give the {transform.kind} that the prior was trained on, or raise limit"
        )
    if len(set(label_B.tolist())) < 2:
        raise UserError(
            f"data={data} has {transform.kind} of one class only, which nothing tells apart: leave out data"
        )
    kind = kind or classified(transform.kind)
    classifier = kind.fitted(label_B, x_BCHW, transform)
    right_B = classifier(sampled_BCHW) == requested_B
    by_class = {
        one["name"]: float(right_B[requested_B == of_label[one["label"]]].mean()) for one in described["classes"]
    }
    results: dict[str, Any] = {
        "class_agreement": float(right_B.mean()),
        "class_agreement_by_class": by_class,
        "samples": len(requested_B),
        "classifier": kind.what,
        "fitted_to": {"data": identity.brief(), "digest": identity.digest},
    }
    if held_out:
        others = held_to(load_index(held_out), classes, f"held_out={held_out}", "the prior", print)
        label_B, x_BCHW = real_samples(others, transform, limit, batch_size)
        results["real_accuracy"] = float((classifier(x_BCHW) == label_B).mean())
        results["real_samples"] = len(label_B)
    return results


def _class_of(described: dict[str, Any], classes: Sequence[str], samples: str) -> int:
    """The prior's label of a class in samples.json, by its name; UserError where it has none of this name."""
    name, label = str(described["name"]), int(described["label"])
    if label < len(classes) and classes[label] == name:
        return label
    label_map([name], classes, f"samples={samples}", "the prior")
    return list(classes).index(name)
