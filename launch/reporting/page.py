"""One self-contained HTML page about a run or a whole pipeline, from files alone: no scripts, no outside resources.

launch/templates/report.html words it. It shows what launch.stages.listing lists, or a single run's folder; what isn't
there is left out.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.command.cli import UserError
from launch.files.atomic import write_file
from launch.files.inputs import settings_of
from launch.files.outputs import try_file
from launch.files.places import without_folder, without_places, word_without_places
from launch.files.templates import render
from launch.reporting.charts import Line, line_chart, number, use_chart
from launch.run import folder, metrics
from launch.run.provenance import now

RUNS = {
    "tokenizer-run": "Stage one: tokenizer",
    "prior-run": "Stage two: prior",
    "decoder-run": "Stage one: decoder, tuned on the prior's codes",
    "prior-run-masked": "Stage two: masked prior",
}
SAMPLES = {
    "samples": "Samples",
    "prediction": "Given clips, and how they go on",
    "samples-masked": "Samples of the masked prior",
    "prediction-masked": "Given clips, and how the masked prior goes on",
}
MOST_CLASSES, PICTURES_A_CLASS, SOUNDS_A_CLASS = 40, 10, 4
CLIPS = 6
"""Held-out sounds that are shown with their reconstructions."""
PAIRS = 8
"""Held-out videos that are."""

TYPES = {".png": "image/png", ".flac": "audio/flac", ".webp": "image/webp"}
"""Of files that are embedded."""

CAPTIONS = 24
"""Described samples, and texts with samples, that are."""
SHARES = (
    *("codebook_usage", "real_accuracy", "agreement", "exact_match"),
    *(way for what in ("picture", "sound", "video") for way in (f"text_to_{what}", f"{what}_to_text")),
)
"""Figures in percent."""

TOGETHER = {"loss/nll_bits": "eval/bits_per_code"}
"""Training curves that an evaluation's curve belongs to."""

MAIN_GROUPS = ("loss", "codes", "eval")
"""Metrics that the page shows at once, where they change at all; the others wait behind a fold."""


def write(source: Path, out: Path | None = None) -> Path:
    """Write the page of a folder; its path. Raises UserError where the folder holds no run.

    The page may be given away: it names files and folders, but not where they lie.
    """
    target = out or source / "report.html"
    folders = {source: source.resolve().name} | {source / name: title for name, title in RUNS.items()}
    read = [path / name for path in folders for name in (metrics.FILE, folder.CONFIG, folder.ORIGIN)]
    try_file("out", target, inputs=(*read, source / "metrics.json", source / "codes" / "train" / "index.json"))
    runs = [run_facts(path, title) for path, title in folders.items() if (path / metrics.FILE).exists()]
    if not runs:
        raise UserError(f"folder={source} holds no run (metrics.jsonl): name a run's folder or a pipeline's --out")
    figures = without_places(read_json(source / "metrics.json"))
    meta = read_json(source / "codes" / "train" / "index.json").get("meta", {})
    counts = None if "counted" in meta else meta.get("histogram")
    page = render(
        "report.html",
        title=figures.get("data") or source.resolve().name,
        figures=figures,
        values={name: value for name, value in flat(figures) if ".measured." not in name},
        runs=runs,
        counts=counts if isinstance(counts, list) else [],
        reconstructions=embedded(source / "evaluation" / "reconstructions.png"),
        clips=clips(source / "evaluation" / "sounds"),
        pairs=[embedded(file) for file in sorted((source / "evaluation" / "videos").glob("*.webp"))[:PAIRS]],
        samples={title: samples(source / name) for name, title in SAMPLES.items()},
        captions=captions(source / "captions"),
        origin={**runs[0]["origin"], **figures},
        written=now(),
        shown=shown,
        duration=duration,
        use_chart=use_chart,
    )
    write_file(target, without_folder(page, source))
    return target


def run_facts(path: Path, title: str) -> dict[str, Any]:
    """What the page tells of one run: charts, configuration, origin."""
    lines = metrics.read(path / metrics.FILE)
    config, origin = path / folder.CONFIG, read_json(path / folder.ORIGIN)
    return {
        "title": title,
        "charts": list(charts(lines)),
        "events": [
            (line["step"], without_folder(text, path) if isinstance(text, str) else text)
            for line in lines
            if line["kind"] == "event"
            for name, text in line.items()
            if name not in metrics.RESERVED
        ],
        "steps": max((line["step"] for line in lines), default=0),
        "config": settings(config) if config.exists() else "",
        "origin": origin
        | ({"argv": [word_without_places(word) for word in origin["argv"]]} if "argv" in origin else {}),
    }


def settings(config: Path) -> str:
    """A configuration as the page shows it."""
    return yaml.safe_dump(without_places(settings_of(config)), sort_keys=False, allow_unicode=True)


def charts(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One chart for each metric of a run, training and evaluation together where they measure the same.

    Each has a heading and its last value; `main` says whether the page shows it at once.
    """
    training, evaluation = curves(lines, "train"), curves(lines, "eval")
    pairs = [(name, line, evaluation.pop(TOGETHER.get(name, ""), None)) for name, line in training.items()]
    for name, line, partner in [*pairs, *((name, line, None) for name, line in evaluation.items())]:
        drawn = [line, partner] if partner else [line]
        yield {
            "name": name,
            "svg": line_chart(drawn, name),
            "last": number(line.values[-1]),
            "legend": [each.name for each in drawn] if partner else [],
            "main": any(len(set(each.values)) > 1 for each in drawn) and name.split("/")[0] in MAIN_GROUPS,
        }


def curves(lines: list[dict[str, Any]], kind: str) -> dict[str, Line]:
    """The metrics of one kind of line as curves, those of the same group (loss, codes, rate…) side by side."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        for name, value in line.items() if line["kind"] == kind else ():
            if name not in metrics.RESERVED and isinstance(value, (int, float)):
                steps, values = found.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(value)
    groups = {"loss": 0, "eval": 1, "codes": 2, "weight": 3, "rate": 5}
    ordered = sorted(found, key=lambda name: (groups.get(name.split("/")[0], 4), name))
    return {name: Line(name, *found[name], dots=kind == "eval") for name in ordered}


def shown(name: str, value: Any) -> str:
    """A figure as text; shares in percent."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    last = name.split(".")[-1]
    share = last in SHARES or last.endswith("_agreement") or (last.startswith("real_") and last.endswith("_accuracy"))
    return f"{100 * value:.1f} %" if share and 0 <= value <= 1 else number(value)


def duration(seconds: float) -> str:
    """Seconds as `3 min 20 s`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min {rest} s" if minutes else f"{rest} s")


def samples(source: Path) -> dict[str, Any]:
    """Sampled pictures, sounds or videos by class or text; the grid picture alone where there are none by these."""
    described = read_json(source / "samples.json").get("classes") or [
        {"name": path.name, "folder": path.name} for path in sorted(source.glob("*"), key=natural) if path.is_dir()
    ]
    texts = any(one["name"] and one.get("label") == -1 for one in described)
    classes, most = {}, CAPTIONS if texts else MOST_CLASSES
    for one in described[:most]:
        files = sorted((source / one["folder"]).glob("*.png"), key=natural)[:PICTURES_A_CLASS]
        sounds = [file for file in files if file.with_suffix(".flac").is_file()][:SOUNDS_A_CLASS]
        if files:
            classes[one["name"] or one["folder"]] = [shown_sample(file) for file in sounds or files]
    grid = "" if classes else embedded(source / "grid.png")
    return {"classes": classes, "texts": texts, "more": len(described) - most if classes else 0, "grid": grid}


@dataclass(frozen=True)
class Shown:
    """A sample on the page: data URLs of its picture, of a video one that moves, and of a sound also of itself."""

    picture: str
    sound: str = ""
    title: str = ""


def shown_sample(file: Path, title: str = "") -> Shown:
    """The sample whose picture is `file`; a sound or video of the same name lies beside it."""
    return Shown(embedded(file.with_suffix(".webp")) or embedded(file), embedded(file.with_suffix(".flac")), title)


def captions(source: Path) -> list[tuple[Shown, str]]:
    """Described samples, as stage2_prior.describe writes them; each with its own text where its caption differs."""
    found = []
    for place, one in enumerate(read_json(source / "captions.json").get("samples", [])[:CAPTIONS]):
        own = one.get("text", one["caption"])
        sample = shown_sample(source / f"{place:05d}.png", one["caption"])
        found.append((sample, own if own != one["caption"] else ""))
    return found


def clips(source: Path) -> list[list[Shown]]:
    """Sounds and their reconstructions in a folder, as stage1_tokenizer.evaluate names them; a list for each clip.

    NN-original, NN-books-G with the first G codebooks, and NN with all.
    """
    found = []
    for original in sorted(source.glob("*-original.png"))[:CLIPS]:
        number = original.name.removesuffix("-original.png")
        fewer = sorted(source.glob(f"{number}-books-*.png"), key=lambda file: natural(Path(file.stem.split("-")[-1])))
        row = [shown_sample(original, "original")]
        for file in fewer:
            count = file.stem.split("-")[-1]
            row.append(shown_sample(file, f"{count} codebook{'s' if count != '1' else ''}"))
        found.append([*row, shown_sample(source / f"{number}.png", "all codes")])
    return found


def natural(path: Path) -> tuple[int, str]:
    """Sort key that puts 2.png before 10.png, and names without a number first."""
    digits = "".join(letter for letter in path.stem if letter.isdigit())
    return (int(digits) if digits else -1, path.name)


def embedded(path: Path) -> str:
    """A picture or sound file as a data URL; empty where there is none."""
    start = f"data:{TYPES[path.suffix]};base64,"
    return start + base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries as dotted names; lists longer than a few numbers, and of dictionaries, are left out."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from flat(item, f"{prefix}.{name}" if prefix else name)
    elif not isinstance(value, list) or (len(value) <= 4 and not any(isinstance(item, dict) for item in value)):
        yield prefix, value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is no file."""
    return settings_of(path) if path.is_file() else {}
