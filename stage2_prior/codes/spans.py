"""The order of a sample's codes in a span of tokens, the marks between them, and which ids may stand where.

Place by place, with each place's G codes one after the other; or delayed, where codebook g's code of place p stands
among those of place p + g (Copet et al. 2023, in one row: the places before a codebook's first and after its last are
left out).

Shapes: G codebooks, N codes, S tokens between the opening and the closing one.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource


@dataclass(frozen=True)
class Span:
    """Where each code of a sample stands. All arrays are int64."""

    grid: tuple[int, ...]
    """Places along each axis."""
    codebooks: int
    """G."""
    order_N: np.ndarray
    """Which of the flattened codes, of shape (G, *grid), comes n-th."""
    first_N: np.ndarray
    """The id of code 0 of the n-th code's codebook."""
    places_N: np.ndarray
    """The place of the n-th code among the span's tokens."""
    marks_S: np.ndarray
    """The span without codes: ids of marks, -1 where a code stands."""
    limits_S2: np.ndarray
    """(S + 1, 2): the first id that may stand at a place, and the one after the last; at place S the closing token."""

    @property
    def length(self) -> int:
        """S."""
        return len(self.marks_S)

    def write(self, codes: np.ndarray) -> np.ndarray:
        """The ids, (S,), of codes of shape (G, *grid), or of the grid's with one codebook."""
        token_S = self.marks_S.copy()
        token_S[self.places_N] = codes.reshape(-1).astype(np.int64)[self.order_N] + self.first_N
        return token_S

    def read(self, token_S: np.ndarray, source: CodeSource) -> np.ndarray:
        """The codes of a span's ids in the source's shape: undoes `write`. UserError for ids that can't stand there."""
        if len(token_S) != self.length:
            raise UserError(f"a span of {len(token_S)} tokens is not of {self.length}, as {source} take")
        limits_S2 = self.limits_S2[:-1]
        if ((token_S < limits_S2[:, 0]) | (token_S >= limits_S2[:, 1])).any():
            raise UserError(f"a span of {len(token_S)} tokens has other ids than those of {source}")
        code_N = np.empty(len(self.order_N), dtype=np.int64)
        code_N[self.order_N] = token_S[self.places_N] - self.first_N
        return code_N.reshape(self.grid if self.codebooks == 1 else (self.codebooks, *self.grid))


@lru_cache(maxsize=256)
def span_of(
    grid: tuple[int, ...],
    codebooks: int,
    codebook_size: int,
    first: int,
    closing: int,
    delayed: bool = False,
    row: int | None = None,
    frame: int | None = None,
) -> Span:
    """The span of codes on a grid; see `stage2_prior.codes.unified.Block` for the others."""
    places = int(np.prod(grid))
    place_N, book_N = np.divmod(np.arange(places * codebooks), codebooks)
    if delayed:
        order = np.lexsort((book_N, place_N + book_N))
        place_N, book_N = place_N[order], book_N[order]
    mark_P = np.full(places, -1, dtype=np.int64)
    if row is not None:
        mark_P[grid[-1] - 1 :: grid[-1]] = row
    if frame is not None:
        mark_P[grid[-2] * grid[-1] - 1 :: grid[-2] * grid[-1]] = frame
    marks_S: list[int] = []
    places_N = np.empty(len(place_N), dtype=np.int64)
    for n, (place, book) in enumerate(zip(place_N.tolist(), book_N.tolist(), strict=True)):
        places_N[n] = len(marks_S)
        marks_S.append(-1)
        if book == codebooks - 1 and mark_P[place] >= 0:
            marks_S.append(int(mark_P[place]))
    first_N = first + book_N * codebook_size
    limits_S2 = np.repeat(np.array([*marks_S, closing], dtype=np.int64)[:, None], 2, axis=1)
    limits_S2[:, 1] += 1
    limits_S2[places_N] = np.stack([first_N, first_N + codebook_size], axis=1)
    return Span(grid, codebooks, book_N * places + place_N, first_N, places_N, np.array(marks_S), limits_S2)
