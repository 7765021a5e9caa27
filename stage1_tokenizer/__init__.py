"""Stage one: pictures to codes and back. `from stage1_tokenizer import Tokenizer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage1_tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer"]


def __getattr__(name: str) -> Any:
    """Load torch only once the class is asked for, so that `--help` and errors in a configuration answer at once."""
    if name == "Tokenizer":
        from stage1_tokenizer.tokenizer import Tokenizer

        return Tokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
