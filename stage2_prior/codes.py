"""Whose codes they are: what ties code shards, priors and samples to one tokenizer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.cli import UserError

if TYPE_CHECKING:
    from data.index import ShardIndex


@dataclass(frozen=True)
class CodeSource:
    """Where codes come from; equal for codes that may be mixed."""

    tokenizer: str
    """The tokenizer's fingerprint."""
    codebook_size: int
    """K, how many codes it has."""
    grid: tuple[int, int]
    """Codes along each axis of a picture, (h, w)."""
    transform: dict[str, Any]
    """What was done to the pictures (data.transforms.TransformConfig.to_dict)."""

    @property
    def positions(self) -> int:
        """N, the codes of one picture."""
        return self.grid[0] * self.grid[1]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; `from_dict` reads it back."""
        return {**asdict(self), "grid": list(self.grid)}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> CodeSource:
        """The source that `to_dict` described; KeyError where something is missing. Further keys are passed over."""
        height, width = saved["grid"]
        return cls(saved["tokenizer"], int(saved["codebook_size"]), (int(height), int(width)), dict(saved["transform"]))

    @classmethod
    def of_index(cls, index: ShardIndex, path: str, key: str = "data.index") -> CodeSource:
        """The source of an index that stage2_prior.encode wrote, else UserError."""
        try:
            if index.kind != "codes":
                raise KeyError("kind")
            return cls.from_dict(index.meta)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{key}={path} holds no codes: make them with stage2_prior.encode and name its index.json"
            ) from error

    def must_equal(self, other: CodeSource, key: str, path: str) -> None:
        """UserError that names what differs, where `other` (the value `path` of `key`) is of another source."""
        self.must_be_of(other.tokenizer, key, path)
        for name in ("codebook_size", "grid", "transform"):
            if getattr(self, name) != getattr(other, name):
                raise UserError(
                    f"{key}={path} has another {name} than the training codes: encode both with the same tokenizer"
                )

    def must_be_of(self, fingerprint: str, key: str, path: str) -> None:
        """UserError unless these are the codes of the tokenizer with this fingerprint (the value `path` of `key`)."""
        if self.tokenizer != fingerprint:
            raise UserError(
                f"{key}={path} is of tokenizer {fingerprint[:12]}…, but the codes are of {self.tokenizer[:12]}…: name "
                "the tokenizer they were made with, or encode the pictures with this one (stage2_prior.encode)"
            )


def code_type(codebook_size: int) -> type[np.unsignedinteger]:
    """The type codes are stored in: uint16, or uint32 where K > 65536."""
    return np.uint16 if codebook_size <= 65536 else np.uint32
