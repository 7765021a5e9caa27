"""What an index says, and what verification found, as text."""

from __future__ import annotations

from data.inspecting.verify import Findings
from data.shards.index import ShardIndex

_SHOWN = 5
_CLASSES = 20


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
        more = f" and {len(index.classes) - _CLASSES} more" if len(index.classes) > _CLASSES else ""
        lines.append(f"{len(index.classes)} classes: {', '.join(shown[:_CLASSES])}{more}")
    return "\n".join(lines)


def findings_text(findings: Findings) -> str:
    """The findings, a few examples of each."""
    lines = [f"verified {findings.samples} samples in {findings.shards} shards"]
    for title, entries in (
        ("damaged tars", [f"{url}: {why}" for url, why in findings.damaged_tars.items()]),
        ("unsound samples", [f"{s.url} {s.key}: {s.why}" for s in findings.unsound]),
        ("extensions that don't fit the contents", [f"{s.url} {s.key}: {s.why}" for s in findings.misnamed]),
        ("equal pictures with different labels", [" = ".join(group) for group in findings.conflicts]),
        ("equal pictures", [" = ".join(group) for group in findings.duplicates]),
    ):
        lines.append(f"{title}: {len(entries) or 'none'}")
        lines += [f"  {entry}" for entry in entries[:_SHOWN]]
        if len(entries) > _SHOWN:
            lines.append(f"  … and {len(entries) - _SHOWN} more")
    return "\n".join(lines)
