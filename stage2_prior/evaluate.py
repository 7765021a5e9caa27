"""Judge a prior: `python -m stage2_prior.evaluate --prior RUN --codes HELD_OUT_CODES/index.json --samples DIR …`.

bits_per_code     the prior's mean -log2 p(code) on held-out codes, each once
class_agreement   share of samples for which a classifier fitted to real training pictures gives the class asked for
real_accuracy     the same classifier's accuracy on real held-out pictures, without which agreement means little

Shapes: B pictures, C channels, H W pixels, F features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.cli import UserError, parse, run
from data.writer import write_file

if TYPE_CHECKING:
    from data.transforms import TransformConfig

FEATURE_SIDE = 16
"""Pictures are shrunk to at most this side before they are classified."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a prior and its samples; what isn't named isn't measured."""

    prior: str
    """A finished run's folder or a released prior."""
    out: str
    """JSON file for the results."""
    tokenizer: str | None = None
    """The released tokenizer, to be sure that the prior is over its codes; null: not checked."""
    codes: str | None = None
    """Index of held-out codes, for bits_per_code."""
    samples: str | None = None
    """Folder that stage2_prior.sample wrote, for class_agreement; needs `data`."""
    data: str | None = None
    """Index of the real training pictures that the classifier is fitted to."""
    held_out: str | None = None
    """Index of real held-out pictures, for the classifier's own accuracy."""
    limit: int = 10_000
    """Pictures of `data` (and of `held_out`) that are used at most, evenly spaced."""
    batch_size: int = 64
    """Codes or pictures read at once."""

    def __post_init__(self) -> None:
        if self.codes is None and self.samples is None:
            raise ValueError("nothing to measure: name codes, samples and data, or both")
        if (self.samples is None) != (self.data is None):
            raise ValueError("samples and data go together: the classifier is fitted to data and judges samples")
        for name in ("limit", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: set it to 1 or more")


def features(pixels_BCHW: np.ndarray) -> np.ndarray:
    """What the classifier sees of uint8 pictures, float32 (B, F): the picture's means over a coarse grid, in [0, 1]."""
    side = pixels_BCHW.shape[-1]
    step = max(1, side // FEATURE_SIDE)
    kept = side // step * step
    x_BCHW = pixels_BCHW[..., :kept, :kept].astype(np.float32) / 255
    cells = kept // step
    x_BChswt = x_BCHW.reshape(*x_BCHW.shape[:2], cells, step, cells, step)
    return x_BChswt.mean(axis=(3, 5)).reshape(len(x_BCHW), -1)


class PictureClassifier:
    """Judges classes: a support-vector machine with Gaussian kernel on coarse pictures (scikit-learn)."""

    def __init__(self, label_B: np.ndarray, pixels_BCHW: np.ndarray):
        from sklearn.svm import SVC

        self._machine = SVC(C=10.0, gamma="scale", cache_size=500)
        self._machine.fit(features(pixels_BCHW), label_B)

    def labels(self, pixels_BCHW: np.ndarray) -> np.ndarray:
        """The most likely label of each picture, int64 (B,)."""
        return self._machine.predict(features(pixels_BCHW))


def real_pictures(index: str, transform: TransformConfig, limit: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (B,) and pixels (B, C, H, W) uint8 of an index's labelled pictures, at most `limit`, evenly spaced."""
    from data.stream import every_sample

    labels, pictures = [], []
    for batch in every_sample(index, transform, batch_size=batch_size, limit=limit):
        labels.append(batch.label_B.numpy())
        pictures.append(batch.pixels_BCHW.numpy())
    label_B, pixels_BCHW = np.concatenate(labels), np.concatenate(pictures)
    if (label_B < 0).all():
        raise UserError(f"data={index} has no labels, so that classes can't be judged: leave samples and data away")
    return label_B[label_B >= 0], pixels_BCHW[label_B >= 0]


def sampled_pictures(folder: str, channels: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels (B,), pixels (B, C, H, W) uint8 and samples.json of a finished sampling."""
    from PIL import Image

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


def agreement(config: EvaluateConfig, transform: TransformConfig, tokenizer: str) -> dict[str, Any]:
    """class_agreement, real_accuracy and how many pictures each rests on."""
    assert config.samples is not None and config.data is not None
    asked_B, sampled_BCHW, described = sampled_pictures(config.samples, transform.channels)
    if described["tokenizer"] != tokenizer:
        raise UserError(f"samples={config.samples} are of another tokenizer than prior={config.prior}: sample anew")
    if (asked_B < 0).any():
        raise UserError(f"samples={config.samples} are of no class: leave samples and data away")
    classifier = PictureClassifier(*real_pictures(config.data, transform, config.limit, config.batch_size))
    right_B = classifier.labels(sampled_BCHW) == asked_B
    by_class = {one["name"]: float(right_B[asked_B == one["label"]].mean()) for one in described["classes"]}
    results: dict[str, Any] = {
        "class_agreement": float(right_B.mean()),
        "class_agreement_by_class": by_class,
        "samples": len(asked_B),
        "classifier": "scikit-learn SVC, Gaussian kernel, on pictures of coarse pixels",
    }
    if config.held_out:
        label_B, pixels_BCHW = real_pictures(config.held_out, transform, config.limit, config.batch_size)
        results["real_accuracy"] = float((classifier.labels(pixels_BCHW) == label_B).mean())
        results["real_samples"] = len(label_B)
    return results


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure what is configured, write it to config.out, and return it."""
    import torch

    from data.index import ShardIndex
    from data.transforms import TransformConfig
    from stage2_prior.codes import CodeSource
    from stage2_prior.prior import weights_hash
    from stage2_prior.priors import load_prior
    from stage2_prior.train import bits_per_code

    prior = load_prior(config.prior)
    if config.tokenizer:
        from stage1_tokenizer import Tokenizer

        fingerprint = Tokenizer.from_pretrained(config.tokenizer).fingerprint
        prior.source.must_be_of(fingerprint, "tokenizer", config.tokenizer)
    results: dict[str, Any] = {"tokenizer": prior.source.tokenizer, "prior_weights": weights_hash(prior)}
    if config.codes:
        index = ShardIndex.load(config.codes)
        prior.source.must_equal(CodeSource.of_index(index, config.codes, "codes"), "codes", config.codes)
        prior.to("cuda" if torch.cuda.is_available() else "cpu")
        results |= {
            "bits_per_code": bits_per_code(prior, config.codes, batch_size=config.batch_size),
            "codes": len(index),
        }
    if config.samples:
        results |= agreement(config, TransformConfig.from_dict(prior.source.transform), prior.source.tokenizer)
    Path(config.out).parent.mkdir(parents=True, exist_ok=True)
    write_file(Path(config.out), json.dumps(results, indent=1) + "\n")
    return results


def main() -> int:
    """The command."""
    results = evaluate(parse(EvaluateConfig, prog="python -m stage2_prior.evaluate"))
    print(", ".join(f"{name} {value:.4f}" for name, value in results.items() if isinstance(value, float)))
    return 0


if __name__ == "__main__":
    run(main)
