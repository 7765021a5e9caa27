"""How samples of a unified prior become rows of tokens: the block `model.unified` of launch/recipes/*/prior.yaml."""

from dataclasses import dataclass, field
from typing import Literal

from launch.command.checks import at_least, check

DIRECTIONS = ("text_to_media", "media_to_text", "both", "text")


@dataclass(frozen=True)
class UnifiedConfig:
    """The vocabulary, and what is asked of each sample, with model.kind=unified."""

    text_tokenizer: str = ""
    """The tokenizer of texts: a `tokenizer.json`, or a folder with one, of stage2_prior.text_tokenizer or any other
    that `tokenizers` reads. Special tokens that it lacks are added behind its own."""
    length: int = 512
    """Tokens of a row, into which samples are packed, and the most of a sample: captions lose their ends where a sample
    is longer (which is told), longer texts and documents are continued in a further piece."""
    directions: dict[str, float] = field(default_factory=lambda: {"text_to_media": 1.0, "media_to_text": 1.0})
    """Weights of what is asked of a sample of codes and a text, drawn for each sample and step: text_to_media (loss on
    the codes), media_to_text (loss on the text), both (in either order, loss on all), text (the text alone)."""
    levels: Literal["flat", "delayed"] = "flat"
    """Order of the codes of several codebooks: flat, place by place; delayed, each codebook's one place later than that
    before it."""
    rows: bool = False
    """End each row of codes of pictures and videos by a token, so that one prior is over grids of several sizes."""

    def __post_init__(self) -> None:
        at_least(4, self, "length", prefix="model.unified.")
        known = ", ".join(DIRECTIONS)
        for name, weight in self.directions.items():
            if name not in DIRECTIONS:
                raise ValueError(f"model.unified.directions[{name}] is no direction: choose some of {known}")
            check(f"model.unified.directions[{name}]", weight, weight >= 0, "0 or more")
        if sum(self.directions.values()) <= 0:
            raise ValueError(f"model.unified.directions draws none: give one of {known} a weight above 0")
