"""One self-contained HTML page about a run or a whole pipeline, from files alone: no scripts, no outside resources.

It shows what launch.stages.listing lists, or a single run's folder; what isn't there is left out.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from launch.command.cli import UserError
from launch.files.atomic import write_file
from launch.reporting.charts import Line, line_chart, number, use_chart
from launch.run import folder, metrics
from launch.run import provenance as facts

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"

RUNS = {
    "tokenizer-run": "Stage one: tokenizer",
    "prior-run": "Stage two: prior",
    "prior-run-masked": "Stage two: masked prior",
}
SAMPLES = {"samples": "Samples by class", "samples-masked": "Samples of the masked prior by class"}
MOST_CLASSES, PICTURES_A_CLASS = 40, 10

TILES = (
    ("tokenizer.psnr", "PSNR", "dB, held out"),
    ("tokenizer.lpips", "LPIPS", "VGG, held out; lower is better"),
    ("tokenizer.codebook_usage", "Codebook use", "of all codes, held out"),
    ("prior.bits_per_code", "Bits per code", "held out; lower is better"),
    ("samples.class_agreement", "Class agreement", "samples that show the asked class"),
    ("masked.class_agreement", "Class agreement, masked", "the masked prior's samples that do"),
    ("samples.frechet_vgg16", "Fréchet distance", "samples to held-out, VGG16 features; lower is better"),
    ("seconds.total", "Time", "all stages"),
)
"""Key figures: where they stand in metrics.json, what they are called, what they mean."""

SHARES = ("codebook_usage", "class_agreement", "real_accuracy")

TOGETHER = {"loss/nll_bits": "eval/bits_per_code"}
"""Training curves that an evaluation's curve belongs to."""


MAIN_GROUPS = ("loss", "codes", "eval")
"""Metrics that the page shows at once, where they change at all; the others wait behind a fold."""

OWN_TABLES = ("seconds", "setup_seconds", "versions", "commit", "hardware", "date", "data", "short")
"""Parts of metrics.json that the page shows elsewhere than among the figures."""


def write(source: Path, out: Path | None = None) -> Path:
    """Write the page of a folder; its path. Raises UserError where the folder holds no run."""
    runs = [run_facts(path, title) for path, title in run_folders(source)]
    if not runs:
        raise UserError(f"folder={source} holds no run (metrics.jsonl): name a run's folder or a pipeline's --out")
    figures = read_json(source / "metrics.json")
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("report.html").render(
        title=figures.get("data") or source.resolve().name,
        short=figures.get("short", False),
        tiles=list(tiles(figures)),
        runs=runs,
        use=codebook_use(source),
        reconstructions=embedded(source / "evaluation" / "reconstructions.png"),
        samples={title: samples(source / name) for name, title in SAMPLES.items()},
        figures=list(all_figures(figures)),
        seconds=list(stage_seconds(figures)),
        facts=list(provenance(figures, runs)),
    )
    target = out or source / "report.html"
    write_file(target, page)
    return target


def run_folders(source: Path) -> Iterator[tuple[Path, str]]:
    """The runs to show: the folder's own, or the pipeline's two."""
    if (source / metrics.FILE).exists():
        yield source, source.resolve().name
    for name, title in RUNS.items():
        if (source / name / metrics.FILE).exists():
            yield source / name, title


def run_facts(path: Path, title: str) -> dict[str, Any]:
    """What the page tells of one run: charts, configuration, origin."""
    lines = metrics.read(path / metrics.FILE)
    config = path / folder.CONFIG
    return {
        "title": title,
        "charts": list(charts(lines)),
        "events": [(line["step"], text) for line in lines if line["kind"] == "event" for text in sentences(line)],
        "steps": max((line["step"] for line in lines), default=0),
        "config": config.read_text() if config.exists() else "",
        "origin": read_json(path / folder.ORIGIN),
    }


def sentences(line: dict[str, Any]) -> list[str]:
    """What an event's line says."""
    return [text for name, text in line.items() if name not in metrics.RESERVED]


def charts(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One chart for each metric of a run, training and evaluation together where they measure the same."""
    series = {kind: curves(lines, kind) for kind in ("train", "eval")}
    shown_already = set()
    for name, line in series["train"].items():
        drawn = [line]
        if (partner := TOGETHER.get(name)) in series["eval"]:
            drawn.append(series["eval"][str(partner)])
            shown_already.add(partner)
        yield chart(name, drawn)
    for name, line in series["eval"].items():
        if name not in shown_already:
            yield chart(name, [line])


def chart(name: str, lines: list[Line]) -> dict[str, Any]:
    """A chart with its heading and last value; `main` says whether the page shows it at once."""
    names = [line.name for line in lines] if len(lines) > 1 else []
    changes = any(len(set(line.values)) > 1 for line in lines)
    return {
        "name": name,
        "svg": line_chart(lines, name),
        "last": number(lines[0].values[-1]),
        "legend": names,
        "main": changes and name.split("/")[0] in MAIN_GROUPS,
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


def tiles(figures: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The key figures that are there."""
    values = dict(flat(figures))
    for name, title, meaning in TILES:
        if isinstance(values.get(name), (int, float)):
            text = duration(values[name]) if name.startswith("seconds.") else shown(name, values[name])
            yield {"title": title, "value": text, "meaning": meaning}


def all_figures(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every figure with its name, without what was measured how."""
    for name, value in flat(figures):
        if name.split(".")[0] not in OWN_TABLES and ".measured." not in name:
            yield name, shown(name, value)


def shown(name: str, value: Any) -> str:
    """A figure as text; shares in percent."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{100 * value:.1f} %" if name.split(".")[-1] in SHARES and 0 <= value <= 1 else number(value)


def duration(seconds: float) -> str:
    """Seconds as `3 min 20 s`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min {rest} s" if minutes else f"{rest} s")


def stage_seconds(figures: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Each stage with its duration and its share of the longest one, in percent."""
    seconds = {name: value for name, value in figures.get("seconds", {}).items() if name != "total" and value}
    for name, value in seconds.items():
        yield name, duration(value), 100 * value / max(seconds.values())


def provenance(figures: dict[str, Any], runs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Commit, hardware, versions and commands."""
    origin = {**(runs[0]["origin"] if runs else {}), **figures}
    for name in ("date", "commit", "hardware"):
        if origin.get(name):
            yield name, str(origin[name])
    if versions := origin.get("versions"):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    if origin.get("setup_seconds"):
        yield "set-up", duration(origin["setup_seconds"])
    for item in runs:
        if argv := item["origin"].get("argv"):
            yield f"command ({item['title'].split(': ')[-1]})", " ".join([Path(argv[0]).name, *argv[1:]])
    yield "page written", facts.now()


def codebook_use(source: Path) -> dict[str, str] | None:
    """The histogram of codes over the training pictures, as stage2_prior.encode counted it."""
    counts = read_json(source / "codes" / "train" / "index.json").get("meta", {}).get("histogram")
    if not isinstance(counts, list) or not sum(counts):
        return None
    used = sum(count > 0 for count in counts)
    return {"svg": use_chart(counts, "codebook use"), "text": f"{used} of {len(counts)} codes are used"}


def samples(source: Path) -> dict[str, Any] | None:
    """Sampled pictures by class; the grid picture alone where there are none by class."""
    described = read_json(source / "samples.json").get("classes") or [
        {"name": path.name, "folder": path.name} for path in sorted(source.glob("*"), key=natural) if path.is_dir()
    ]
    classes = []
    for one in described[:MOST_CLASSES]:
        files = sorted((source / one["folder"]).glob("*.png"), key=natural)[:PICTURES_A_CLASS]
        if files:
            classes.append({"name": one["name"], "pictures": [embedded(file) for file in files]})
    if classes:
        return {"classes": classes, "more": max(0, len(described) - MOST_CLASSES), "grid": ""}
    grid = embedded(source / "grid.png")
    return {"classes": [], "more": 0, "grid": grid} if grid else None


def natural(path: Path) -> tuple[int, str]:
    """Sort key that puts 2.png before 10.png."""
    digits = "".join(letter for letter in path.stem if letter.isdigit())
    return (int(digits) if digits else 0, path.name)


def embedded(path: Path) -> str:
    """A picture file as a data URL; empty where there is none."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries as dotted names; lists longer than a few numbers are left out."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from flat(item, f"{prefix}.{name}" if prefix else name)
    elif not isinstance(value, list) or len(value) <= 4:
        yield prefix, value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is no file."""
    return json.loads(path.read_text()) if path.is_file() else {}
