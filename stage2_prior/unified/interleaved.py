"""Interleaved documents: lines of JSON with places, and sets of codes, made to shards of documents."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.packing.sources.tars import TarSource
from data.shards.bucket import set_writer
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from data.shards.text import text_lines
from data.shards.writer import Sample
from launch.command.cli import UserError
from launch.command.progress import Progress
from stage2_prior.codes.source import CodeSource

INDEX, EACH = "index.json", 1000
"""The index, and documents in a shard."""
SAMPLE = "sample"
"""A place in a document: {"sample": KEY}."""


@dataclass(frozen=True)
class CodeSets:
    """Codes by the samples' keys."""

    paths: tuple[str, ...]

    @cached_property
    def indexes(self) -> list[ShardIndex]:
        """The sets; UserError for one that holds no codes."""
        found = [load_index(path) for path in self.paths]
        for path, index in zip(self.paths, found, strict=True):
            CodeSource.of_index(index, path, "codes")
        return found

    @cached_property
    def _sets(self) -> list[TarSource]:
        return [TarSource(path) for path in self.paths]

    @cached_property
    def _places(self) -> dict[str, list[tuple[int, int]]]:
        places: dict[str, list[tuple[int, int]]] = {}
        for number, one in enumerate(self._sets):
            for sample in range(len(one)):
                places.setdefault(one.read(sample).key, []).append((number, sample))
        return places

    def codes(self, key: str) -> tuple[int, bytes]:
        """The set that has the key, and its codes as a .npy file; UserError where none or several have it."""
        places = self._places.get(key, [])
        if len(places) != 1:
            have = "no set of codes has it" if not places else f"{len(places)} samples of the sets of codes have it"
            raise UserError(f"the sample {key!r}: {have}: give the sets that its keys are of, each key once")
        number, sample = places[0]
        contents = self._sets[number].read(sample).encoded
        assert contents is not None, "a set of codes has them"
        return number, contents


def write_documents(lines: Path, sets: CodeSets, out: str, *, licence: str = "", overwrite: bool = False) -> ShardIndex:
    """Write a document for each line to shards in `out`. UserError names a line that can't be one."""
    try:
        contents = lines.read_bytes()
    except OSError as error:
        raise UserError(f"documents={lines} can't be read ({error.strerror}): check the file") from error
    listed = [(number, line) for number, line in enumerate(text_lines(contents), 1) if line.strip()]
    if not listed:
        raise UserError(f"documents={lines} has no line")
    for number, line in listed:
        _parts(lines, number, line)
    shards = set_writer(out)
    plan = {"documents": len(listed), "codes": [Identity.of(index).brief() for index in sets.indexes]}
    shards.begin(plan, [INDEX], overwrite=overwrite)
    records = []
    with Progress("documents", len(listed), unit="documents") as bar:
        for first in range(0, len(listed), EACH):
            part = listed[first : first + EACH]
            name = f"documents-{first // EACH:06d}.tar"
            records.append(shards.write(name, (_sample(lines, *one, sets) for one in part)))
            bar.advance(len(part))
    sources = [CodeSource.of_index(index, index.path).to_dict() for index in sets.indexes]
    index = shards.index(records, name="documents", kind="documents", licence=licence, meta={"sources": sources})
    shards.finish({INDEX: index})
    return index


def _sample(path: Path, number: int, line: str, sets: CodeSets) -> Sample:
    """A line as a sample of a shard."""
    what = f"documents={path}: line {number}"
    members: dict[str, bytes] = {}
    segments: list[Any] = []
    for place in _parts(path, number, line):
        if isinstance(place, str):
            segments.append(place)
            continue
        try:
            source, codes = sets.codes(place[SAMPLE])
        except UserError as error:
            raise UserError(f"{what}: {error}") from error
        segments.append({"codes": len(members), "source": source})
        members[f"{len(members)}.codes.npy"] = codes
    text = json.dumps({"segments": segments}, ensure_ascii=False)
    return f"{number:08d}", {"json": text.encode(), **members}


def _parts(path: Path, number: int, line: str) -> list[Any]:
    """The segments of a line; UserError for another form."""
    what = f"documents={path}: line {number}"
    try:
        parts = json.loads(line)["segments"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f'{what} is no object with "segments" ({error}): see stage2_prior.documents --help') from error
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise UserError(f'{what} has "segments" that are no list of texts and {{"{SAMPLE}": KEY}}')
    for one in parts:
        if not isinstance(one, str) and not (isinstance(one, dict) and isinstance(one.get(SAMPLE), str)):
            raise UserError(f'{what} has the segment {one!r}, which is neither a text nor {{"{SAMPLE}": KEY}}')
    return list(parts)
