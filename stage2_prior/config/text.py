"""Which text encoder a prior hears captions through: the block `model.text`."""

from __future__ import annotations

from dataclasses import dataclass

BYTES = "bytes"
"""The encoder that is trained along."""


@dataclass(frozen=True)
class TextConfig:
    """How captions are read, with model.condition=text."""

    encoder: str = BYTES
    """bytes: a small transformer over the text's bytes, trained along; else a frozen text encoder with its tokenizer
    (T5, CLIP's, BERT, …): a folder, or its name on the Hub."""
    revision: str | None = None
    """Branch, tag or commit of an encoder on the Hub; a release notes the commit."""
    tokens: int = 64
    """Tokens (bytes) of a caption that are heard, and places that they take before the codes; the rest is cut off."""
    layers: int = 2
    """Blocks of the encoder over bytes; it is as wide as the prior."""

    def __post_init__(self) -> None:
        for name in ("tokens", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.text.{name}={getattr(self, name)} is too small: set it to 1 or more")
        if self.revision is not None and self.encoder == BYTES:
            raise ValueError("model.text.revision is for an encoder on the Hub, and bytes is none: leave it out")
