"""What is sampled: classes or prompts; stage2_prior.sampling.holes adds given pictures.

Shapes: B pictures, L tokens of a text, N codes.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.shards.text import text_lines
from launch.command.cli import UserError
from launch.ranks.transfer import to_device
from stage2_prior.config.sampling import SampleConfig
from stage2_prior.priors.base import Prior

LONGEST = 60
"""Letters of a prompt in its folder's name."""


class Subjects:
    """Numbered subjects; the same number of pictures is sampled of each."""

    what = "subjects"
    """The subjects in a word."""
    guidable = True
    """Whether guidance makes a difference: whether the prior is conditioned on them."""
    _tokens: Tensor
    """The conditioning tokens of all subjects, where they are numbered from 0."""

    def __init__(self, prior: Prior, labels: Sequence[int], names: Sequence[str | None], folders: Sequence[str]):
        """`labels` are the subjects' numbers, which seed their pictures."""
        self.prior = prior
        self.labels = list(labels)
        self.names = dict(zip(labels, names, strict=True))
        self.folders = dict(zip(labels, folders, strict=True))

    def class_of(self, label: int) -> int:
        """The class requested of a subject's pictures, -1 for none."""
        return -1

    def about(self) -> dict[str, Any]:
        """What samples.json says of all of them together."""
        return {}

    def described(self, count: int) -> list[dict[str, Any]]:
        """The subjects as in samples.json."""
        return [
            {"label": self.class_of(label), "name": self.names[label], "folder": folder, "count": count}
            for label, folder in self.folders.items()
        ]

    def tokens(self, labels: Sequence[int]) -> Tensor:
        """Conditioning tokens of some subjects, token_B or token_BL, on the prior's device."""
        return to_device(self._tokens[list(labels)], next(self.prior.parameters()).device)

    def given(self, labels: Sequence[int]) -> Tensor | None:
        """Codes to keep, given_BN, negative where codes are to be drawn; None: all are drawn."""
        return None

    def shown(self, label: int) -> dict[str, Any]:
        """Samples saved beside a subject's, by name, and shown left of them in the grid; PIL pictures, for example."""
        return {}


class Classes(Subjects):
    """Classes by name or number, "none" for no class; None: all of the prior's."""

    what = "classes"

    def __init__(self, prior: Prior, requested: Sequence[str] | None):
        names = prior.vocabulary.classes
        numbers = range(len(names)) if requested is None else map(prior.vocabulary.label, requested)
        labels = list(dict.fromkeys(numbers)) or [-1]
        named = [names[label] if label >= 0 else None for label in labels]
        self.guidable = bool(names)
        super().__init__(prior, labels, named, folder_names(labels, names))

    def class_of(self, label: int) -> int:
        """The class is the subject."""
        return label

    def tokens(self, labels: Sequence[int]) -> Tensor:
        """The classes' tokens."""
        token_B = self.prior.condition.of_labels(torch.tensor(labels))  # checked on the CPU, without a wait
        return to_device(token_B, next(self.prior.parameters()).device)


class Prompts(Subjects):
    """Texts, numbered in order."""

    what = "prompts"

    def __init__(self, prior: Prior, texts: Sequence[str]):
        super().__init__(prior, range(len(texts)), texts, numbered(texts))
        self._tokens = prior.condition.of_texts(texts)
        say_cut(prior, texts)


def say_cut(prior: Prior, texts: Sequence[str]) -> None:
    """Warn of texts that are longer than the prior takes."""
    if cut := prior.condition.cut(texts):
        print(f"warning: {cut}", file=sys.stderr, flush=True)


def requested(config: SampleConfig, prior: Prior) -> Subjects:
    """The configured prompts, else the configured classes."""
    texts = prompts_of(config.prompt, config.prompts)
    return Prompts(prior, texts) if texts else Classes(prior, config.classes)


def prompts_of(prompt: str | None, file: str | None) -> list[str]:
    """The prompt, or those in a file, one per line; empty if neither is given. UserError for a file without any."""
    if file is None:
        return [] if prompt is None else [prompt]
    try:
        prompts = [line.strip() for line in text_lines(Path(file).read_bytes()) if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"prompts={file} can't be read ({error}): give a text file, one prompt per line") from error
    if not prompts:
        raise UserError(f"prompts={file} is empty: write a prompt on each line")
    return prompts


def folder_names(labels: Sequence[int], names: Sequence[str]) -> list[str]:
    """A folder for each label: the class's name in characters that file systems accept, or its number on a clash."""
    cleaned = [re.sub(r"[^\w &+-]", "_", names[label]).strip() if label >= 0 else "all" for label in labels]
    return [
        name if name and cleaned.count(name) == 1 and name != "codes" else f"class-{label}"
        for label, name in zip(labels, cleaned, strict=True)
    ]


def numbered(texts: Sequence[str]) -> list[str]:
    """A folder for each text: its number and its beginning, in characters that file systems accept."""
    cleaned = [re.sub(r"[^\w &+-]", "_", text)[:LONGEST] for text in texts]
    return [f"{number:04d} {text}".strip() for number, text in enumerate(cleaned)]
