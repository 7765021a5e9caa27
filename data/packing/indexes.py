"""The end of a pack: index files, lists of what was left out, and the summary."""

import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.media import media_of
from data.packing.sources.base import Source, place
from data.shards.layout import Layout
from data.shards.signature import DECODED
from data.shards.writer import ShardRecord, ShardWriter
from launch.command.cli import UserError

Written = Mapping[str, Sequence[ShardRecord]]
"""Records of the shards of each split."""


def publish(
    shards: ShardWriter, source: Source, written: Written, name: str, *, source_kind: str, **about: Any
) -> None:
    """Write the indexes (`about` are their further fields) and the lists of what was left out.

    UserError where nothing could be packed.
    """
    indexes, files = {}, {}
    usual = DECODED if source.media == "pictures" else media_of(source.media).members
    for split, records in written.items():
        filled = [record for record in records if record.nsamples]
        if not filled:
            raise UserError(f"no sample of {split} could be packed: {_reasons(records)}; check source and kind")
        counts: collections.Counter[str] = collections.Counter()
        for record in records:
            counts.update(record.notes["counts"])
        packed = {"kind": source_kind, "counts": [counts[str(i)] for i in range(len(source.classes))]}
        indexes[f"{split}.json"] = shards.index(
            filled,
            name=f"{name or Path(shards.name).resolve().name}-{split}",
            classes=source.classes,
            meta={**source.meta, **packed},
            layout=Layout(picture=tuple(dict.fromkeys((*source.picture, *usual))) if source.picture else ()),
            **about,
        )
        skipped = [entry for record in records for entry in record.notes["skipped"]]
        if skipped:
            files[f"{split}.skipped.json"] = json.dumps(dict(skipped), indent=1, ensure_ascii=False) + "\n"
    for records in written.values():
        for record in records:
            if not record.nsamples:
                shards.remove(record.url)
    shards.finish(indexes, files)


def refuse_overlap(source: Source, path: str, out: str) -> None:
    """UserError where writing to `out` would change what is read."""
    if source.overlaps(place(out)):
        raise UserError(f"out={out} is a part of source={path}, which would be written over: choose a folder elsewhere")


def summary(written: Written, out: str) -> str:
    """What was packed, and what was left out and why."""
    lines = []
    for name, records in written.items():
        filled = [record for record in records if record.nsamples]
        samples, size = sum(r.nsamples for r in filled), sum(r.filesize for r in filled)
        lines.append(f"{name}: {samples} samples in {len(filled)} shards, {size / 1e6:.1f} MB, index {out}/{name}.json")
        if reasons := _reasons(records):
            lines.append(f"  left out: {reasons}; all of them in {out}/{name}.skipped.json")
    return "\n".join(lines)


def _reasons(records: Sequence[ShardRecord]) -> str:
    """`3 no bytes (a/1, a/7, …), 1 …`: how many samples were skipped for each reason, with examples."""
    keys_of: dict[str, list[str]] = {}
    for record in records:
        for key, why in record.notes["skipped"]:
            keys_of.setdefault(why, []).append(key)
    frequent = sorted(keys_of.items(), key=lambda item: -len(item[1]))
    return ", ".join(
        f"{len(keys)} {why} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})" for why, keys in frequent[:10]
    )
