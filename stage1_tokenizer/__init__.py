"""Stage one: pictures to codes and back.

    from stage1_tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(DIR)            # a folder, or a name on the Hub with revision=…
    codes = tokenizer.encode(pictures)                    # float tensors in [-1, 1], PIL pictures or lists of them
    pictures = tokenizer.decode(codes)

docs/tokenizers.md shows the commands at work, docs/networks.md what there is to choose from, docs/architecture.md the
rooms. The algorithm of a training step is in stage1_tokenizer.training.step.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage1_tokenizer.tokenizer.model import Tokenizer

__all__ = ["Tokenizer"]


def __getattr__(name: str) -> Any:
    """Load torch only once the class is asked for, so that `--help` and errors in a configuration answer at once."""
    if name == "Tokenizer":
        from stage1_tokenizer.tokenizer.model import Tokenizer

        return Tokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
