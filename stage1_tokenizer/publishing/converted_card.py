"""The model card of a converted tokenizer: its origin, its use, and what isn't known about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launch.files.templates import render
from stage1_tokenizer.publishing.card import about_tokenizer, metadata
from stage1_tokenizer.publishing.standalone import snippet
from stage1_tokenizer.tokenizer.model import Tokenizer


@dataclass(frozen=True)
class Origin:
    """Where a converted tokenizer came from."""

    layout: str
    """The layout's name."""
    file: str
    """Name of the checkpoint."""
    sha256: str
    """Hash of the checkpoint."""
    settings: str | None
    """Name of the peer's configuration file."""
    origin: str | None
    """Where it was published, as stated by the user."""
    licence: str | None
    """Licence of the weights, as stated by the user."""
    notes: list[str] = field(default_factory=list)
    """Decisions that the conversion had to make."""
    discriminator: str = "in `discriminator.safetensors`"
    """Where the discriminator is, or why there is none."""


def write_card(path: Path, name: str, tokenizer: Tokenizer, origin: Origin) -> None:
    """Write the card."""
    assert tokenizer.transform is not None
    tags = ["image-tokenizer", "vector-quantization"]
    text = render(
        "card_converted.md",
        metadata=metadata(origin.licence, name, library_name="vqloom", tags=tags),
        name=name,
        origin=origin,
        snippet=snippet(tokenizer, name),
        **about_tokenizer(tokenizer, tokenizer.transform.size),
    )
    path.write_text(text)
