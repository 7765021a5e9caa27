"""The source of codes, which ties code shards, priors and samples to one tokenizer."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np

from data.media import Transform
from data.shards.index import ShardIndex
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer

Form = Literal["grid", "levels", "scales"]
"""How the codes of a picture are arranged; see CodeSource.form."""


@dataclass(frozen=True)
class CodeSource:
    """Where codes come from; codes may be mixed if their sources are equal."""

    tokenizer: str
    """The tokenizer's `code_fingerprint`."""
    codebook_size: int
    """K, the number of its codes."""
    grid: tuple[int, ...]
    """Codes along each axis: (h, w) of a picture, (T,) of a sound; (N,) for latent tokens, which have no place."""
    transform: dict[str, Any]
    """How the samples were prepared (a data.media.Transform's to_dict)."""
    codebooks: int = 1
    """G: codes at each place of the grid, each from its own codebook."""
    scales: tuple[int, ...] = ()
    """Sides of the grids of next-scale codes, coarsest first; empty for codes on one grid."""

    @property
    def form(self) -> Form:
        """grid: (h, w) or (N,), one code at each place; levels: (G, h, w); scales: (N,), all scales' codes in rows.

        Of sounds (T,) and (G, T).
        """
        return "scales" if self.scales else "levels" if self.codebooks > 1 else "grid"

    @property
    def kind(self) -> str:
        """Kind of the samples: pictures, sounds."""
        return str(self.transform.get("kind", "pictures"))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture's codes."""
        if self.scales:
            return (sum(side**2 for side in self.scales),)
        return self.grid if self.codebooks == 1 else (self.codebooks, *self.grid)

    def __str__(self) -> str:
        """The codes in words."""
        words = f"{self.codebook_size} codes on {'×'.join(map(str, self.grid))}"
        if self.codebooks > 1:
            words += f", {self.codebooks} a place"
        return words + (f", scales {', '.join(map(str, self.scales))}" if self.scales else "")

    @property
    def positions(self) -> int:
        """N, the codes of one picture."""
        return math.prod(self.shape)

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer, transform: Transform) -> Self:
        """The source of a tokenizer's codes for samples prepared by `transform`."""
        quantizer, grid = tokenizer.config.quantizer, tokenizer.grid(transform.sizes)
        tokenizer.codes_shape(transform.sizes)  # raises if the sizes don't fit
        scales = tuple(quantizer.scales) if quantizer.kind == "multiscale" else ()
        described, size = transform.to_dict(), tokenizer.codebook_size
        return cls(tokenizer.code_fingerprint, size, grid, described, tokenizer.codebooks, scales)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; `from_dict` reads it back. Levels and scales are left out for codes on one grid."""
        described = {**asdict(self), "grid": list(self.grid), "scales": list(self.scales)}
        if self.form == "grid":
            del described["codebooks"], described["scales"]
        else:
            described["shape"] = list(self.shape)
        return described

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Self:
        """The source that `to_dict` described; KeyError if something is missing. Other keys are ignored."""
        return cls(
            saved["tokenizer"],
            int(saved["codebook_size"]),
            tuple(map(int, saved["grid"])),
            dict(saved["transform"]),
            int(saved.get("codebooks", 1)),
            tuple(map(int, saved.get("scales", ()))),
        )

    @classmethod
    def of_index(cls, index: ShardIndex, path: str, key: str = "data.index") -> Self:
        """The source of an index that stage2_prior.encode wrote; UserError for any other."""
        try:
            if index.kind != "codes":
                raise KeyError("kind")
            return cls.from_dict(index.meta)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{key}={path} holds no codes: encode pictures with stage2_prior.encode and give its index.json"
            ) from error

    def must_equal(self, other: Self, key: str, path: str) -> None:
        """UserError that names the difference unless `other` (the value `path` of `key`) is the same source."""
        self.must_be_of(other.tokenizer, key, path)
        for name in ("codebook_size", "grid", "transform", "codebooks", "scales"):
            if getattr(self, name) != getattr(other, name):
                raise UserError(
                    f"{key}={path} has another {name} than the training codes: encode both with the same tokenizer"
                )

    def must_be_of(self, fingerprint: str, key: str, path: str) -> None:
        """UserError unless these are the codes of the tokenizer with this fingerprint (the value `path` of `key`)."""
        if self.tokenizer != fingerprint:
            raise UserError(
                f"{key}={path} has the fingerprint {fingerprint[:12]}…, but the codes are of {self.tokenizer[:12]}…: "
                "give the tokenizer that made them, or encode the pictures with this one (stage2_prior.encode)"
            )


def code_type(codebook_size: int) -> type[np.unsignedinteger]:
    """The type in which codes are stored: uint16, or uint32 for K > 65536."""
    return np.uint16 if codebook_size <= 65536 else np.uint32
