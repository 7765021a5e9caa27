"""Look into a set of shards: what it holds, whether all of it is sound, and what it looks like.

    python -m data.inspect INDEX [--verify] [--quarantine] [--report FILE.json] [--contact_sheet FILE.png]

`--verify` reads and decodes everything. Exit code 1: something is wrong, and the output says what.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.inspecting.verify import Findings, verify
from data.shards import quarantine
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.command.cli import UserError, parse, run

FOUND = 1
"""Exit code when verification found something wrong."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Look into a set of shards; without options, say what its index tells."""

    index: str
    """The shard index (JSON); on the command line, the first word."""
    verify: bool = False
    """Read and decode every sample; list damaged tars, unsound or mislabelled samples, and duplicates."""
    quarantine: bool = False
    """With verify: write the unsound samples to INDEX's quarantine list, which every reader honours."""
    report: str | None = None
    """With verify: write all findings to this JSON file."""
    contact_sheet: str | None = None
    """Write a PNG of random samples with their labels."""
    count: int = 80
    """Pictures on the contact sheet."""
    side: int = 96
    """Their size on it, in pixels."""
    seed: int = 0
    """Which samples the contact sheet shows."""
    max_pixels: int = 100_000_000
    """A picture with more pixels counts as unsound."""
    processes: int | None = None
    """Processes that verify; none: one for each core."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key, the rule and the value."""
        for name in ("count", "side", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is less than 1: set it to 1 or more")
        for name in ("quarantine", "report"):
            if getattr(self, name) and not self.verify:
                raise ValueError(f"{name} is made of what --verify finds: add --verify")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options and do what they ask."""
    config = parse(InspectConfig, argv, prog="python -m data.inspect INDEX", positional=("index",))
    index = read_index(config.index)
    print(describe(index))
    found = None
    if config.verify:
        found = verify(index, processes=config.processes or os.cpu_count() or 1, max_pixels=config.max_pixels)
        print(told(found))
        _write(found, index, config)
    if config.contact_sheet:
        from data.inspecting.contact_sheet import contact_sheet

        contact_sheet(load_index(config.index), config.count, config.side, config.seed).save(config.contact_sheet)
        print(f"contact sheet: {config.contact_sheet}")
    return FOUND if found is not None and not found.sound else 0


def read_index(path: str) -> ShardIndex:
    """The index, without offsets and without a look at the shards: verification works where they are damaged."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"index={path} can't be read ({error}): name an index made by data.pack or data.index"
        ) from error
    return ShardIndex.from_json(values, str(Path(path).parent), path)


def describe(index: ShardIndex) -> str:
    """What the index tells."""
    size = sum(shard.filesize or 0 for shard in index.shards) / 1e6
    name = index.name or "unnamed set"
    lines = [f"{name}: {len(index)} samples ({index.kind}) in {len(index.shards)} shards, {size:.1f} MB"]
    if index.licence:
        lines.append(f"licence: {index.licence}")
    if index.classes:
        counts = index.meta.get("counts") or []
        told = [f"{name} ({counts[i]})" if i < len(counts) else name for i, name in enumerate(index.classes[:20])]
        more = f" and {len(index.classes) - 20} more" if len(index.classes) > 20 else ""
        lines.append(f"{len(index.classes)} classes: {', '.join(told)}{more}")
    return "\n".join(lines)


def told(found: Findings) -> str:
    """The findings, a few examples of each."""
    lines = [f"verified {found.samples} samples in {found.shards} shards"]
    for title, entries in (
        ("damaged tars", [f"{url}: {why}" for url, why in found.damaged_tars.items()]),
        ("unsound samples", [f"{s.url} {s.key}: {s.why}" for s in found.unsound]),
        ("extensions that don't fit the contents", [f"{s.url} {s.key}: {s.why}" for s in found.misnamed]),
        ("equal pictures with different labels", [" = ".join(group) for group in found.conflicts]),
        ("equal pictures", [" = ".join(group) for group in found.duplicates]),
    ):
        lines.append(f"{title}: {len(entries) or 'none'}")
        lines += [f"  {entry}" for entry in entries[:_SHOWN]]
        if len(entries) > _SHOWN:
            lines.append(f"  … and {len(entries) - _SHOWN} more")
    return "\n".join(lines)


def _write(found: Findings, index: ShardIndex, config: InspectConfig) -> None:
    if config.report:
        Path(config.report).write_text(json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
        print(f"report: {config.report}")
    if config.quarantine:
        path = quarantine.quarantine_path(Path(config.index))
        reasons: dict[str, dict[int, str]] = {}
        for sample in found.unsound:
            reasons.setdefault(sample.url, {})[sample.position] = sample.why
        quarantine.save(path, reasons)
        print(f"quarantine list: {path} ({len(found.unsound)} samples)")


if __name__ == "__main__":
    run(main)
