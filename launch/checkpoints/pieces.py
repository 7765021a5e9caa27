"""State in pieces: what a rank holds of a model's parameters, in files that any other strategy can read.

A piece is a stretch of one flattened parameter. Every strategy (launch.strategies) gives a rank some of them, so a file
that names parameter and stretch says nothing of ranks or strategy, and a reader takes from all files what it needs.

<part>.part3.safetensors     what rank 3 held: float tensors "<parameter>:<start>", and all shapes in the metadata
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from launch.command.cli import UserError

SUFFIX = ".safetensors"

TYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.bool: "BOOL"}
"""Of values that a file of pieces holds, with their names in safetensors."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a flattened parameter, or of something that has one value for each of its values."""

    name: str
    """The parameter's full name."""
    shape: tuple[int, ...]
    """The whole parameter's."""
    start: int
    """Where in the flattened parameter the stretch begins."""
    values: Tensor
    """One-dimensional; writing into it changes the state it belongs to."""
    everywhere: bool = False
    """Whether every rank has it, so that rank 0 writes it for all."""

    def of(self, values: Tensor, prefix: str = "") -> Piece:
        """The same stretch of something else that has a value for each of the parameter's."""
        return replace(self, name=prefix + self.name, values=values)


class PieceState:
    """State of a checkpoint that each rank holds a part of (or all of: `everywhere`, then rank 0 writes it)."""

    def __init__(
        self,
        pieces: Callable[[], list[Piece]],
        *,
        everywhere: bool,
        loaded: Callable[[], None] | None = None,
        plain: Callable[[Any], Mapping[str, Tensor]] | None = None,
    ):
        """`pieces` gives this rank's, as they are now; `loaded` is called once they have been read back.

        `plain` gives the tensors, by the pieces' names, of a state_dict that a checkpoint without pieces has instead;
        None where there is no such form.
        """
        self.pieces, self.everywhere, self._loaded, self.plain = pieces, everywhere, loaded, plain

    def load(self, read: Callable[[str, int, int], Tensor]) -> None:
        """Read this rank's pieces from the files, whichever ranks wrote them."""
        with torch.no_grad():
            for piece in self.pieces():
                if piece.values.numel():
                    piece.values.copy_(read(piece.name, piece.start, piece.values.numel()))
        if self._loaded is not None:
            self._loaded()

    def written_by(self, rank: int) -> PieceState:
        """What this rank writes: its own pieces, on rank 0 also those that every rank has."""
        own = [piece for piece in self.pieces() if rank == 0 or not piece.everywhere]
        return PieceState(lambda: own, everywhere=self.everywhere)

    def frozen(self) -> PieceState:
        """A copy in the memory of the CPU, which training no longer changes."""
        copies = [piece.of(piece.values.detach().to("cpu", copy=True)) for piece in self.pieces()]
        return PieceState(lambda: copies, everywhere=self.everywhere)


def write_pieces(pieces: Sequence[Piece], file: BinaryIO) -> None:
    """Write a safetensors file: eight bytes of the header's length, the header, the values one after the other."""
    pieces = [piece for piece in pieces if piece.values.numel()]
    entries: dict[str, Any] = {}
    shapes: dict[str, list[int]] = {}
    end = 0
    for piece in pieces:
        begin, end = end, end + piece.values.numel() * piece.values.element_size()
        entries[f"{piece.name}:{piece.start}"] = {
            "dtype": TYPES[piece.values.dtype],
            "shape": [piece.values.numel()],
            "data_offsets": [begin, end],
        }
        shapes[piece.name] = list(piece.shape)
    header = json.dumps({"__metadata__": {"shapes": json.dumps(shapes)}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    file.write(struct.pack("<Q", len(header)) + header)
    for piece in pieces:
        file.write(piece.values.detach().cpu().contiguous().numpy().data.cast("B"))


class Whole:
    """Finds any stretch of any parameter in whole tensors, as a Reader does in files."""

    def __init__(self, tensors: Mapping[str, Tensor], place: Path | str):
        """`place` is where they are from, for errors."""
        self._tensors, self._place = tensors, place

    def __call__(self, name: str, start: int, count: int) -> Tensor:
        """Values [start, start + count) of a flattened tensor. UserError where they are not there."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.numel() < start + count:
            raise lacks(self._place, name)
        return tensor.reshape(-1)[start : start + count]


def lacks(place: Path | str, name: str) -> UserError:
    """The error for values that a checkpoint doesn't hold."""
    return UserError(
        f"{place} lacks values of {name}: it is a checkpoint of another model, so resume it with the configuration it "
        "was saved with"
    )


class Reader:
    """Finds any stretch of any parameter in the files of one part of a checkpoint."""

    def __init__(self, paths: Sequence[Path]):
        self._paths, self._stretches = paths, {}  # type: ignore[var-annotated]
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Whole parameters' shapes by name."""
        for path in paths:
            file = safe_open(path, framework="pt")
            for name, shape in json.loads(file.metadata()["shapes"]).items():
                self.shapes[name] = tuple(shape)
            for key in file.keys():  # noqa: SIM118  (safe_open is no dictionary)
                name, _, start = key.rpartition(":")
                count = file.get_slice(key).get_shape()[0]
                self._stretches.setdefault(name, []).append((int(start), int(start) + count, file, key))

    def __call__(self, name: str, start: int, count: int) -> Tensor:
        """Values [start, start + count) of a flattened parameter. UserError where the files don't hold them all."""
        out, at = [], start
        for begin, end, file, key in sorted(self._stretches.get(name, []), key=lambda one: one[:2]):
            if begin <= at < min(end, start + count):
                stop = min(end, start + count)
                out.append(file.get_slice(key)[at - begin : stop - begin])
                at = stop
        if at < start + count:
            raise lacks(self._paths[0].parent, name)
        return torch.cat(out) if len(out) != 1 else out[0]

    def whole(self, name: str) -> Tensor:
        """A whole parameter in its shape."""
        return self(name, 0, math.prod(self.shapes[name])).reshape(self.shapes[name])

    def all(self) -> dict[str, Tensor]:
        """All of them."""
        return {name: self.whole(name) for name in sorted(self.shapes)}
