"""What a prior's codes depend on (`model.condition`): the sample's class, nothing, or its caption.

A condition turns labels or captions into conditioning tokens, and these into the embeddings in front of the codes.

Shapes: B batch, L tokens of a caption, T embeddings before the codes, D width of the prior.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from data.codes.batches import CodeBatch
from launch.command.cli import UserError, one_line
from launch.files.places import without_places
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.priors.stock import Work
from stage2_prior.priors.text_prefix import NONE, TextPrefix

TEXT = "text"
"""Folder of the text prefix in an export, and its name among a prior's modules."""


class Condition:
    """What all conditions share; one without trained modules and texts is the default."""

    name: ClassVar[str]
    """As in prior.json."""
    what: ClassVar[str]
    """What its values are called in messages."""
    texts: ClassVar[bool] = False
    """Whether its values are texts."""
    prefix = 0
    """Embeddings in front of the codes but the last one, which is the class (or null) token's."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary

    @property
    def null(self) -> int:
        """The conditioning token of no condition, which guidance compares with."""
        return self.vocabulary.null

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What is trained and exported for it, by name."""
        return {}

    @property
    def described(self) -> dict[str, Any]:
        """What it adds to prior.json."""
        return {}

    def of_labels(self, label_B: Tensor) -> Tensor:
        """Conditioning tokens of labels (-1: none), token_B or token_BL."""
        raise NotImplementedError

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Conditioning tokens of texts, token_BL, on the CPU; UserError where the condition isn't texts."""
        raise UserError("prompts need a prior trained with model.condition=text: leave them out")

    def cut(self, texts: Sequence[str]) -> str:
        """How many of the texts are longer than the prior takes, with an example; nothing where none is."""
        return ""

    def of_batch(self, batch: CodeBatch) -> Tensor:
        """Conditioning tokens of a batch's samples."""
        return self.of_labels(batch.label_B)

    def embedded(self, token_B: Tensor, embedding: nn.Module) -> Tensor:
        """The embeddings in front of the codes, x_BTD; `embedding` is the prior's token embedding."""
        raise NotImplementedError

    def forget_places(self) -> None:
        """Keep names in place of folders of this machine, before a release."""

    def work(self, positions: int) -> list[Work]:
        """The work of an encoder that is trained along, for each of a picture's `positions` codes."""
        return []


class ClassCondition(Condition):
    """One token for each picture, token_B: its class's, or null; always null where there are no classes.

    It stands several times in front of the codes where `tokens` says so (BAR has 32).
    """

    name = "class"
    what = "classes"

    def __init__(self, vocabulary: Vocabulary, tokens: int = 1):
        super().__init__(vocabulary)
        self.prefix = tokens - 1

    def __str__(self) -> str:
        """The condition in words, for a model card."""
        return f"{len(self.vocabulary.classes)} classes" if self.vocabulary.classes else "no classes"

    @property
    def described(self) -> dict[str, Any]:
        """The number of its tokens, if there are several."""
        return {"class_tokens": self.prefix + 1} if self.prefix else {}

    def of_labels(self, label_B: Tensor) -> Tensor:
        """The classes' tokens, token_B."""
        return self.vocabulary.class_tokens(label_B)

    def embedded(self, token_B: Tensor, embedding: nn.Module) -> Tensor:
        """The token's embedding, so many times, x_BTD."""
        x_BTD: Tensor = embedding(token_B[:, None].expand(-1, self.prefix + 1))
        return x_BTD


class TextCondition(Condition):
    """A caption as a prefix of embeddings, followed by the null token's; its tokens are token_BL."""

    name = "text"
    what = "prompts"
    texts = True

    def __init__(self, vocabulary: Vocabulary, text: TextPrefix):
        super().__init__(vocabulary)
        self.text, self.prefix = text, text.config.tokens

    def __str__(self) -> str:
        """The condition in words, for a model card."""
        config = self.text.config
        if self.text.bytes is not None:
            return f"texts of up to {config.tokens} bytes"
        encoder = f"`{config.encoder}`" + (f" at `{config.revision}`" if config.revision else "")
        return f"texts of up to {config.tokens} tokens through the frozen encoder {encoder}, not part of it"

    @property
    def null(self) -> int:
        """Stands at every place of a text that isn't there."""
        return NONE

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The text prefix."""
        return {TEXT: self.text}

    @property
    def described(self) -> dict[str, Any]:
        """That it is texts."""
        return {"condition": self.name}

    def of_labels(self, label_B: Tensor) -> Tensor:
        """No text, token_BL, whatever the labels."""
        return label_B.new_full((len(label_B), self.prefix), NONE)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """The texts' tokens, token_BL, on the CPU; an empty text has none."""
        return self.text.tokens(texts)

    def cut(self, texts: Sequence[str]) -> str:
        """How many of the texts are longer than `model.text.tokens`, with an example."""
        lengths = [self.text.length(text) for text in texts]
        cut = [text for text, length in zip(texts, lengths, strict=True) if length > self.prefix]
        if not cut:
            return ""
        unit = "tokens" if self.text.bytes is None else "bytes"
        return (
            f"{len(cut)} of {len(texts)} texts are longer than model.text.tokens={self.prefix} {unit} and are cut (the "
            f"longest has {max(lengths)}), such as {one_line(cut[0], 80)!r}"
        )

    def of_batch(self, batch: CodeBatch) -> Tensor:
        """The captions' tokens, token_BL."""
        return self.of_texts(batch.captions)

    def embedded(self, token_B: Tensor, embedding: nn.Module) -> Tensor:
        """The text's prefix and the null token's embedding, x_BTD with T = L + 1."""
        start_B1 = torch.full_like(token_B[:, :1], self.vocabulary.null)
        x_BLD, start_B1D = self.text(token_B), embedding(start_B1)
        return torch.cat([x_BLD.to(start_B1D.dtype), start_B1D], dim=1)

    def forget_places(self) -> None:
        """A frozen encoder in a folder is then known by the folder's name; text_encoder says where it is."""
        config = self.text.config
        self.text.config = replace(config, encoder=without_places(config.encoder))

    def work(self, positions: int) -> list[Work]:
        """The encoder over bytes; a frozen one is not trained and isn't counted."""
        if self.text.bytes is None:
            return []
        return [Work(self.text.bytes, self.prefix / positions, self.prefix)]
