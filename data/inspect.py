"""Inspect a set of shards: what it holds, whether all of it is sound, and what it looks like.

    python -m data.inspect INDEX [--verify] [--quarantine] [--report FILE.json] [--contact_sheet FILE.png]

`--verify` reads and decodes everything. Exit code 1: something is wrong, and the output says what.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.inspecting.verify import Findings, findings_text, verify
from data.media import media_of
from data.shards import quarantine
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from data.shards.locations import is_remote
from data.shards.tally import Tally
from launch.command.checks import at_least
from launch.command.cli import UserError, parse, run
from launch.command.cores import cores
from launch.files.atomic import write_file, writing
from launch.files.outputs import try_files

FOUND = 1
"""Exit code when verification found something wrong."""
CLASSES = 20
"""Classes that are named, of those that the index has."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Inspect a set of shards; without options, print what its index says."""

    index: str
    """Path of the shard index (JSON); the first word of the command line."""
    verify: bool = False
    """Read and decode every sample; list damaged tars, unsound or mislabelled samples, and duplicates."""
    quarantine: bool = False
    """With verify: write the unsound samples to INDEX's quarantine list; training and evaluation skip them."""
    report: str | None = None
    """With verify: write all findings to this JSON file."""
    contact_sheet: str | None = None
    """Write a PNG of random samples with their labels; of sounds, spectrograms; of videos, four frames."""
    count: int = 80
    """Samples on the contact sheet."""
    side: int = 96
    """Their size, in pixels."""
    seed: int = 0
    """Seed that decides which samples the contact sheet shows."""
    max_pixels: int = 100_000_000
    """A picture with more pixels counts as unsound."""
    processes: int | None = None
    """Processes that verify; none: one for each core."""

    def __post_init__(self) -> None:
        at_least(1, self, "count", "side", "max_pixels")
        for name in ("quarantine", "report"):
            if getattr(self, name) and not self.verify:
                raise ValueError(f"{name} needs the findings of --verify: add --verify")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, print what the index says, and do what else is requested."""
    config = parse(InspectConfig, argv, prog="python -m data.inspect INDEX", positional=("index",))
    aside = quarantine.quarantine_path(Path(config.index)) if config.quarantine else None
    outputs = {"report": config.report, "contact_sheet": config.contact_sheet, "quarantine": aside}
    try_files(outputs, inputs=(config.index,))
    index = load_index(config.index, with_offsets=False)
    shards = [place for place in map(index.location, range(len(index.shards))) if not is_remote(place)]
    try_files(outputs, inputs=tuple(shards))
    if config.contact_sheet and not media_of(index.kind).thumbnail:
        raise UserError(f"contact_sheet shows pictures, and {config.index} holds {index.kind}: leave it out")
    print(describe(index))
    findings = None
    if config.verify:
        findings = verify(index, processes=config.processes or cores(), max_pixels=config.max_pixels)
        print(findings_text(findings, index.kind))
        _write(findings, config)
    if config.contact_sheet:
        from data.inspecting.contact_sheet import contact_sheet

        sheet = contact_sheet(load_index(config.index), config.count, config.side, config.seed)
        with writing(Path(config.contact_sheet)) as file:
            sheet.save(file, format="PNG")
        print(f"contact sheet: {config.contact_sheet}")
    return FOUND if findings is not None and not findings.sound else 0


def describe(index: ShardIndex) -> str:
    """What the index says."""
    size = sum(shard.filesize or 0 for shard in index.shards) / 1e6
    name = index.name or "unnamed set"
    lines = [f"{name}: {len(index)} samples ({index.kind}) in {len(index.shards)} shards, {size:.1f} MB"]
    if index.licence:
        lines.append(f"licence: {index.licence}")
    if index.classes:
        counts = index.meta.get("counts") or []
        shown = [f"{name} ({counts[i]})" if i < len(counts) else name for i, name in enumerate(index.classes)]
        more = f" and {len(index.classes) - CLASSES} more" if len(index.classes) > CLASSES else ""
        lines.append(f"{len(index.classes)} classes: {', '.join(shown[:CLASSES])}{more}")
    if "tally" in index.meta:
        lines += ["when it was indexed:", *(f"  {line}" for line in Tally.from_json(index.meta["tally"]).lines())]
    return "\n".join(lines)


def _write(findings: Findings, config: InspectConfig) -> None:
    if config.report:
        write_file(Path(config.report), json.dumps(findings.to_json(), indent=1, ensure_ascii=False) + "\n")
        print(f"report: {config.report}")
    if config.quarantine:
        path = quarantine.quarantine_path(Path(config.index))
        reasons: dict[str, dict[int, str]] = {}
        for sample in findings.unsound:
            reasons.setdefault(sample.url, {})[sample.position] = sample.why
        quarantine.save(path, reasons)
        print(f"quarantine list: {path} ({len(findings.unsound)} samples)")


if __name__ == "__main__":
    run(main)
