"""Documents packed into rows of a set length: none is split, and the rows are a function of the documents alone.

Shapes: B rows, T tokens of a row.
"""

from collections.abc import Sequence

import torch

from stage2_prior.codes.unified import Packed
from stage2_prior.unified.segments import NO_LOSS, Document


def pack(documents: Sequence[Document], length: int, end: int, *, apart: bool = False) -> Packed:
    """The documents, none longer than `length`, in as few rows as first-fit decreasing needs (Johnson 1973).

    `end` fills rows up. With `apart`, each document gets a row of its own. Of no documents one empty row is made, so
    that a rank without any still takes part in a step.
    """
    rows: list[list[Document]] = []
    left: list[int] = []
    for document in sorted(documents, key=len, reverse=True):
        if len(document) > length:
            raise ValueError(f"a document of {len(document)} tokens doesn't fit a row of {length}: cut it into pieces")
        row = len(rows) if apart else next((i for i, room in enumerate(left) if room >= len(document)), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(length)
        rows[row].append(document)
        left[row] -= len(document)
    count = max(1, len(rows))
    packed = Packed(*(torch.full((count, length), value, dtype=torch.int64) for value in (end, 0, NO_LOSS)))
    for row, inside in enumerate(rows):
        at = 0
        for number, document in enumerate(inside):
            place = slice(at, at + len(document))
            packed.token_BT[row, place] = torch.from_numpy(document.token_T)
            packed.kind_BT[row, place] = torch.from_numpy(document.kind_T)
            packed.document_BT[row, place] = number
            at = place.stop
        packed.document_BT[row, at:] = len(inside)
    return packed
