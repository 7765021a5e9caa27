"""Whether samples show what their texts say, word by word: for sets of videos whose captions can be checked.

Such a set's index has `meta["attributes"]` = {NAME: {"words": [WORD, …], "seen": "frames" or "motion"}}: each caption
holds one of the words, and it can be seen in every frame, or in what moves. For each NAME the figures are

    NAME_agreement       share of the samples that show the requested word (by word: NAME_agreement_by_word)
    real_NAME_accuracy   the same of real held-out clips and their captions: what the classifier is worth

Shapes: B clips, C channels, T frames, H W pixels.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.media import read_transform
from data.reading.stream import every_sample
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.command.cli import UserError
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.measuring.video_classifier import SEEN, VIDEOS
from stage2_prior.priors.base import Prior, weights_hash

Attributes = dict[str, dict[str, Any]]


def attributes_of(index: ShardIndex) -> Attributes:
    """What the captions of a set say that can be checked; empty for most sets. UserError where it can't be read."""
    found = index.meta.get("attributes") or {}
    try:
        for one in found.values():
            if one["seen"] not in SEEN or len(one["words"]) < 2:
                raise ValueError(f"seen must be one of {', '.join(SEEN)}, of two words or more")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{index.path}: meta.attributes can't be read ({error}): remove or mend it") from error
    return dict(found)


def word_of(caption: str, words: Sequence[str]) -> int:
    """Which of the words a caption holds, -1 for none and for several; of words inside others the longest counts."""
    rest, found = caption.lower(), []
    for number in sorted(range(len(words)), key=lambda number: -len(words[number])):
        pattern = rf"\b{re.escape(words[number].lower())}\b"
        if re.search(pattern, rest):
            found.append(number)
            rest = re.sub(pattern, " ", rest)
    return found[0] if len(found) == 1 else -1


def real_clips(index: ShardIndex, transform: Any, limit: int, batch_size: int) -> tuple[list[str], np.ndarray]:
    """Captions and clips, uint8 (B, C, T, H, W), of a set, evenly spaced."""
    batches = list(every_sample(index, transform, batch_size=batch_size, limit=limit))
    captions = [text for batch in batches for text in batch.captions]
    return captions, np.concatenate([VIDEOS.values(batch) for batch in batches])


class Classifiers:
    """Classifiers of all attributes of a set, fitted to its real clips from frame `first` on."""

    def __init__(self, attributes: Attributes, captions: Sequence[str], x_BCTHW: np.ndarray, first: int = 0):
        self.attributes, self.first, self.classifiers = attributes, first, {}
        for name, one in attributes.items():
            label_B = np.array([word_of(text, one["words"]) for text in captions])
            if len(set(label_B[label_B >= 0].tolist())) < 2:
                raise UserError(f"data has captions with less than two words of meta.attributes.{name}: raise limit")
            fitted = SEEN[one["seen"]]
            self.classifiers[name] = fitted(label_B[label_B >= 0], x_BCTHW[label_B >= 0][:, :, first:])

    def figures(self, captions: Sequence[str], x_BCTHW: np.ndarray, real: bool = False) -> dict[str, Any]:
        """Agreement of clips with their captions; that of real ones is called accuracy. A caption may lack a word."""
        found: dict[str, Any] = {}
        for name, one in self.attributes.items():
            label_B = np.array([word_of(text, one["words"]) for text in captions])
            said_B = label_B >= 0
            if not said_B.any():
                continue
            label_B = label_B[said_B]
            right_B = self.classifiers[name](x_BCTHW[said_B][:, :, self.first :]) == label_B
            if real:
                found[f"real_{name}_accuracy"] = float(right_B.mean())
                continue
            found[f"{name}_agreement"] = float(right_B.mean())
            by_word = {one["words"][label]: float(right_B[label_B == label].mean()) for label in np.unique(label_B)}
            found[f"{name}_agreement_by_word"] = by_word
        return found


def drawn_clips(folder: str, prior: Prior) -> tuple[list[str], np.ndarray, dict[str, Any]]:
    """What the samples of a finished sampling, or inpainting, should show, the samples, and its samples.json."""
    file = Path(folder) / "samples.json"
    described = json.loads(file.read_text()) if file.exists() else {}
    if not described.get("complete"):
        raise UserError(f"samples={folder} holds no finished samples: run stage2_prior.sample there first, to its end")
    if described["tokenizer"] != prior.source.tokenizer:
        raise UserError(f"samples={folder} are of another tokenizer than the prior's: sample again")
    if described.get("prior_weights") not in (None, weights_hash(prior)):
        raise UserError(f"samples={folder} are of another prior: sample again, or give the prior that they are of")
    transform, suffix = read_transform(prior.source.transform), sample_kind(prior.source.kind).suffix
    texts = described.get("captions") or [one["name"] or "" for one in described["classes"]]
    captions, clips = [], []
    for text, one in zip(texts, described["classes"], strict=True):
        for number in range(one["count"]):
            captions.append(text)
            clips.append(VIDEOS.read(Path(folder) / one["folder"] / f"{number:05d}{suffix}", transform))
    return captions, np.stack(clips), described


def attribute_agreement(
    samples: str | None,
    predictions: str | None,
    data: str,
    held_out: str | None,
    prior: Prior,
    limit: int,
    batch_size: int,
) -> dict[str, Any]:
    """The figures of a folder of samples and, as `prediction`, of one of continued clips; empty for other sets.

    Of continued clips (stage2_prior.inpaint) the classifiers see only frames that were drawn, of real clips the same:
    after a given frame at an edge, noise would seem to move on.
    """
    if prior.source.kind != "videos":
        return {}
    index, transform = load_index(data), read_transform(prior.source.transform)
    if not (attributes := attributes_of(index)):
        return {}
    identity = Identity.of(index)
    captions, x_BCTHW = real_clips(index, transform, limit, batch_size)
    others = real_clips(load_index(held_out), transform, limit, batch_size) if held_out else None
    results: dict[str, Any] = {
        "classifier": VIDEOS.what,
        "fitted_to": {"data": identity.brief(), "digest": identity.digest},
    }
    for folder, name in ((samples, ""), (predictions, "prediction")):
        if folder is None:
            continue
        texts, drawn_BCTHW, described = drawn_clips(folder, prior)
        kept = int(described.get("frames_kept", 0))
        classifiers = Classifiers(attributes, captions, x_BCTHW, kept)
        figures = classifiers.figures(texts, drawn_BCTHW) | {"samples": len(texts)}
        if not any(key.endswith("_agreement") for key in figures):
            raise UserError(f"samples={folder} have no texts with words of {', '.join(attributes)}: leave out data")
        if others is not None:
            figures |= classifiers.figures(*others, real=True) | {"real_samples": len(others[0])}
        results |= {name: figures | {"frames_kept": kept}} if name else figures
    return results
