"""The text encoder of a prior conditioned on captions: the block `model.text`."""

from __future__ import annotations

from dataclasses import dataclass

from launch.command.checks import at_least

BYTES = "bytes"
"""The encoder that is trained with the prior."""


@dataclass(frozen=True)
class TextConfig:
    """How captions are encoded, with model.condition=text."""

    encoder: str = BYTES
    """bytes: a small transformer over the text's bytes, trained with the prior; else a frozen text encoder with its
    tokenizer (T5, CLIP, BERT, …): a folder or a Hub name."""
    revision: str | None = None
    """Branch, tag or commit of an encoder on the Hub; a release records the commit."""
    tokens: int = 64
    """Tokens (or bytes) of a caption, and positions they take in front of the codes; longer captions are cut off."""
    layers: int = 2
    """Layers of the encoder over bytes; it is as wide as the prior."""

    def __post_init__(self) -> None:
        at_least(1, self, "tokens", "layers", prefix="model.text.")
        if self.revision is not None and self.encoder == BYTES:
            raise ValueError(
                "model.text.revision needs an encoder on the Hub, but model.text.encoder=bytes: leave it out"
            )
