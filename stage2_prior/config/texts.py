"""Settings of stage2_prior.describe and stage2_prior.write."""

from dataclasses import dataclass
from typing import Literal

from launch.command.checks import at_least, check
from stage2_prior.config.drawing import Drawing


@dataclass(frozen=True, kw_only=True)
class TextDrawing:
    """How texts are drawn from a unified prior."""

    prior: str
    """A finished run's folder of a unified prior, or its release."""
    tokens: int = 64
    """Tokens of a text, at most; one that ends before is shorter."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely token."""
    top_k: int = 0
    """Draw from the k most likely tokens only; 0 for all."""
    top_p: float = 1.0
    """Draw from the fewest tokens that together have this probability; 1 for all."""
    min_p: float = 0.0
    """Draw from tokens at least this share as likely as the most likely one; 0 for all."""
    seed: int = 0
    """Seed; a text depends only on it and on its number, up to rounding."""
    batch_size: int = 32
    """Texts drawn at once."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the prior; its weights are cast to this type."""

    def __post_init__(self) -> None:
        self.drawing  # noqa: B018  # checks its settings
        at_least(1, self, "tokens", "batch_size")
        check("seed", self.seed, self.seed >= 0, "0 or more")

    @property
    def drawing(self) -> Drawing:
        """The same as of any drawing."""
        return Drawing(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)


@dataclass(frozen=True, kw_only=True)
class DescribeConfig(TextDrawing):
    """Describe pictures, sounds or videos in words."""

    files: list[str]
    """Files, folders of them, or indexes of packed ones (index.json); the first arguments."""
    tokenizer: str
    """The released tokenizer whose codes the prior reads; a unified prior of several kinds of samples has several."""
    out: str | None = None
    """Folder to create for captions.json and the samples as the tokenizer sees them; null: the captions are only
    printed."""
    limit: int = 1000
    """Most samples to describe; of an index evenly spaced."""
    temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files:
            raise ValueError("files is empty: name one or more files")
        at_least(1, self, "limit")


@dataclass(frozen=True, kw_only=True)
class WriteConfig(TextDrawing):
    """Write texts."""

    prompt: str | None = None
    """How the text begins; null: with nothing."""
    prompts: str | None = None
    """A file with one beginning per line; `count` texts of each."""
    count: int = 1
    """Texts of each beginning."""
    out: str | None = None
    """JSON file for the texts; null: they are only printed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None and self.prompts is not None:
            raise ValueError("prompt and prompts are both set: leave one of them out")
        at_least(1, self, "count")
