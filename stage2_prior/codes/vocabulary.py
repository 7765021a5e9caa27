"""The meaning of token ids.

K codes come first, so that a code is its own token id (with several codebooks, code k of codebook g is gK + k); then C
class tokens, one null token (no class, which guidance compares with), and for masked priors one mask token. Where codes
are read in factors (stage2_prior.codes.factors), the values of each factor take the place of a codebook's codes.

Shapes: B batch, N positions, P places, G codebooks (or factors).
"""

import difflib
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from launch.command.cli import UserError
from stage2_prior.codes.factors import digits, numbers


@dataclass(frozen=True)
class Vocabulary:
    """Codes 0 … GK-1, classes GK … GK+C-1, null GK+C and, where `masked`, the mask token GK+C+1."""

    codebook_size: int
    """K, the number of codes of each of the tokenizer's codebooks."""
    classes: tuple[str, ...] = ()
    """Names of the C classes, in the order of their labels; empty for an unconditional prior."""
    masked: bool = False
    """Whether a mask token follows the null token."""
    codebooks: int = 1
    """G, the number of codebooks."""
    factors: tuple[int, ...] = ()
    """Bits of each factor of a code, where codes are read in factors."""

    def __post_init__(self) -> None:
        if self.codebook_size < 1:
            raise ValueError(
                f"codebook_size={self.codebook_size} must be at least 1: give the tokenizer's number of codes"
            )

    @property
    def null(self) -> int:
        """The token that stands for "no class"."""
        return self.codes + len(self.classes)

    @property
    def sizes(self) -> list[int]:
        """The number of codes of each codebook, or of values of each factor."""
        return [1 << bits for bits in self.factors] or [self.codebook_size] * self.codebooks

    @property
    def codes(self) -> int:
        """GK, the number of tokens that are codes (or values of factors)."""
        return sum(self.sizes)

    @property
    def first_tokens(self) -> list[int]:
        """The token of each codebook's code 0, or of each factor's."""
        return [sum(self.sizes[:number]) for number in range(len(self.sizes))]

    def code_tokens(self, code_BPG: Tensor) -> Tensor:
        """The tokens of the codes at some places, of all codebooks (or factors) in the last axis."""
        return code_BPG + numbers(self.first_tokens, code_BPG.device)

    def counts(self, code_BX: Tensor) -> Tensor:
        """How often each code of each codebook (or value of each factor) occurs in codes of some samples, int64."""
        if self.factors:
            code_BX = self.code_tokens(self.digits(code_BX))
        elif self.codebooks > 1:
            code_BX = self.code_tokens(code_BX.movedim(1, -1))
        return torch.bincount(code_BX.flatten(), minlength=self.codes)

    def digits(self, code_X: Tensor) -> Tensor:
        """The factors of codes, digit_XF; -1 of a negative one."""
        return digits(code_X, self.factors)

    @property
    def mask(self) -> int:
        """The token of a position that isn't filled in yet; ValueError in a vocabulary without one."""
        if not self.masked:
            raise ValueError("this vocabulary has no mask token: build it with masked=True")
        return self.null + 1

    @property
    def size(self) -> int:
        """V, the number of token ids."""
        return self.null + 1 + int(self.masked)

    def class_tokens(self, label_B: Tensor) -> Tensor:
        """Token ids of labels in [-1, C), int64; null for -1 (no label), and for all without classes.

        UserError for another label: its token would be null, or mean something else.
        """
        if not self.classes:
            return torch.full_like(label_B, self.null)
        if len(label_B):
            for label in (int(label_B.min()), int(label_B.max())):
                self.check_label(label)
        return torch.where(label_B < 0, self.null, label_B + self.codes)

    def label(self, requested: str | int) -> int:
        """The label of a class given by name or number, -1 for "none"; UserError lists what is allowed."""
        text = str(requested)
        if text in self.classes:
            return self.classes.index(text)
        if text.isdecimal() and int(text) < len(self.classes):
            return int(text)
        if text == "none":
            return -1
        allowed = "it has none, leave out --classes"
        if self.classes:
            shown = ", ".join(self.classes[:20]) + (", …" if len(self.classes) > 20 else "")
            allowed = f"use 0 to {len(self.classes) - 1}, or a name ({shown}), or none for no class"
            if close := difflib.get_close_matches(text, self.classes, n=1):
                allowed = f"did you mean {close[0]!r}? Or {allowed}"
            if any("," in name and text in name for name in self.classes):
                allowed += """; put a name that has a comma into quotes, '["a, b"]'"""
        raise UserError(f"class {text!r} is not one of the prior's classes: {allowed}")

    def check_label(self, label: int) -> None:
        """UserError for a label outside [-1, C)."""
        if not -1 <= label < len(self.classes):
            allowed = f"0 to {len(self.classes) - 1}" if self.classes else "none"
            raise UserError(
                f"class id {label} is outside the {len(self.classes)} classes of this index (allowed: {allowed}; "
                "or -1 for no class): name all classes, one a line, with "
                "`python -m data.index INDEX.json NEW.json --classes FILE`"
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; `from_dict` reads it back."""
        described = {"codebook_size": self.codebook_size, "classes": list(self.classes), "masked": self.masked}
        described |= {"codebooks": self.codebooks} if self.codebooks > 1 else {}
        return described | ({"factors": list(self.factors)} if self.factors else {})

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Self:
        """The vocabulary that `to_dict` described."""
        masked, codebooks = bool(saved.get("masked", False)), int(saved.get("codebooks", 1))
        factors = tuple(map(int, saved.get("factors", ())))
        return cls(int(saved["codebook_size"]), tuple(saved["classes"]), masked, codebooks, factors)
