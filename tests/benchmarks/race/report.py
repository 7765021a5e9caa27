"""What a race shows: curves, a table, pictures, settings, and the JSON object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from launch.run import provenance
from tests.benchmarks.race.settings import LLAMAGEN, OURS, TAMING, Race, differences
from tests.benchmarks.race.worker import PRIOR

FIGURES = {
    "psnr": "PSNR, dB",
    "lpips": "LPIPS (vgg)",
    "frechet_vgg16": "Fréchet distance (vgg16)",
    "codebook_usage": "share of the codes in use",
    "entropy_bits": "bits per code",
}
"""What is drawn."""
SHORT = {"frechet_vgg16": "frechet"}
"""Names of figures in the JSON object that differ from the evaluator's."""
NAMES = {OURS: "vqloom", TAMING: "taming-transformers", LLAMAGEN: "LlamaGen"}
COLOURS = {OURS: "#0b6e4f", TAMING: "#b3541e", LLAMAGEN: "#4059ad"}
COMPARED = ("lpips", "frechet_vgg16")
"""Figures for which the time to a peer's final one is told."""

Curve = list[dict[str, float]]


def report(race: Race, names: list[str]) -> dict[str, Any]:
    """Write everything into the race's folder; the JSON object."""
    curves = {name: json.loads((race.folder / name / "curve.json").read_text())["curve"] for name in names}
    result: dict[str, Any] = {
        "time_to_final": {
            figure: {peer: share_of_time(curves[OURS], curves[peer], figure) for peer in names if peer != OURS}
            for figure in COMPARED
            if OURS in names
        },
        "final": {name: final(curve) for name, curve in curves.items()},
        "minutes": race.minutes,
        "hardware": hardware(race),
    }
    if race.prior:
        result["prior"] = {name: prior_of(race, name) for name in names if name != TAMING}
        samples(race, list(result["prior"]))
    draw(race.folder / "curves.png", curves)
    pictures(race, curves)
    (race.folder / "table.md").write_text(table(curves, result, race))
    (race.folder / "settings.md").write_text(settings(race, names, result["hardware"]))
    (race.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def final(curve: Curve) -> dict[str, float]:
    """The last figures of a curve, with short names."""
    names = ("psnr", "lpips", "frechet_vgg16", "steps", "seconds")
    return {SHORT.get(name, name): round(curve[-1][name], 4) for name in names}


def prior_of(race: Race, name: str) -> dict[str, float]:
    """The last figures of a contender's prior."""
    last = json.loads((race.folder / f"{PRIOR}{name}" / "curve.json").read_text())["curve"][-1]
    return {SHORT.get(name, name): round(value, 4) for name, value in last.items()}


def share_of_time(ours: Curve, theirs: Curve, figure: str) -> float | None:
    """Our time to their last figure over all of their time, linear between moments; None if it wasn't reached."""
    wanted = theirs[-1][figure]
    before: dict[str, float] | None = None
    for moment in ours:
        if moment[figure] <= wanted:
            part = 1.0
            if before is not None:
                part = (before[figure] - wanted) / max(before[figure] - moment[figure], 1e-12)
            began = before["seconds"] if before else 0.0
            return round((began + part * (moment["seconds"] - began)) / theirs[-1]["seconds"], 4)
        before = moment
    return None


def hardware(race: Race) -> dict[str, str]:
    """What it ran on."""
    capability = {} if race.device == "cuda" else {"instructions": torch.backends.cpu.get_cpu_capability()}
    found = {"hardware": provenance.hardware(), **capability, "threads": str(race.threads), **provenance.versions()}
    return found | {"commit": provenance.commit() or "unknown", "date": provenance.now()}


def draw(path: Path, curves: dict[str, Curve]) -> None:
    """Each figure against the minutes of training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7), constrained_layout=True)
    for axis, (name, label) in zip(axes.flat, FIGURES.items(), strict=False):
        for contender, curve in curves.items():
            minutes = [moment["seconds"] / 60 for moment in curve]
            values = [moment.get(name, np.nan) for moment in curve]
            axis.plot(minutes, values, label=NAMES[contender], color=COLOURS[contender], linewidth=2)
        axis.set_title(label)
        axis.set_xlabel("minutes of training")
        axis.grid(alpha=0.3)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    if OURS in curves:
        for peer in [name for name in curves if name != OURS]:
            for axis, figure_name in zip(axes[0, 1:], COMPARED, strict=True):
                axis.axhline(curves[peer][-1][figure_name], color=COLOURS[peer], linewidth=0.8, linestyle=":")
    axes[1, 2].axis("off")
    axes[1, 2].legend(*axes[0, 0].get_legend_handles_labels(), loc="center", frameon=False, fontsize=13)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def pictures(race: Race, curves: dict[str, Curve]) -> None:
    """The same held-out pictures, and what each made of them at a quarter, a half and all of the time."""
    original = Image.open(race.folder / "originals.png").convert("RGB")
    scale = max(1, 64 // original.height)
    rows: list[tuple[str, Image.Image]] = [("originals", original)]
    for part in (0.25, 0.5, 1.0):
        for name, curve in curves.items():
            shown = min(range(len(curve)), key=lambda k: abs(curve[k]["seconds"] - part * race.minutes * 60))
            row = Image.open(race.folder / name / f"moment-{shown + 1:03d}.png").convert("RGB")
            rows.append((f"{NAMES[name]}, {curve[shown]['seconds'] / 60:.3g} min", row))
    left, gap, height = 190, 4, original.height * scale
    page = Image.new("RGB", (left + original.width * scale, len(rows) * (height + gap)), "white")
    pen = ImageDraw.Draw(page)
    for number, (name, row) in enumerate(rows):
        top = number * (height + gap)
        pen.text((6, top + height // 2 - 6), name, fill="black")
        page.paste(row.resize((row.width * scale, height), Image.Resampling.NEAREST), (left, top))
    page.save(race.folder / "pictures.png")


def samples(race: Race, names: list[str]) -> None:
    """Samples of each prior at its best guidance, a class in each row, the contenders beside each other."""
    gap, top = 16, 20
    files = {name: sorted((race.folder / f"{PRIOR}{name}").glob("samples-*.png")) for name in names}
    rows = {name: [Image.open(file).convert("RGB") for file in found] for name, found in files.items()}
    width, height = rows[names[0]][0].size
    page = Image.new("RGB", ((width + gap) * len(names) - gap, top + height * len(rows[names[0]])), "white")
    for number, name in enumerate(names):
        ImageDraw.Draw(page).text((number * (width + gap), 4), NAMES[name], fill="black")
        for row, picture in enumerate(rows[name]):
            page.paste(picture, (number * (width + gap), top + row * height))
    page.save(race.folder / "samples.png")


def table(curves: dict[str, Curve], result: dict[str, Any], race: Race) -> str:
    """The final figures as a Markdown table."""
    lines = [
        f"| {race.minutes:g} minutes each | steps | PSNR | LPIPS | Fréchet (vgg16) | codes in use | bits per code |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, curve in curves.items():
        last = curve[-1]
        values = [f"{last['psnr']:.2f} dB", f"{last['lpips']:.3f}", f"{last['frechet_vgg16']:.1f}"]
        values += [f"{last['codebook_usage']:.1%}", f"{last['entropy_bits']:.2f}"]
        lines.append(f"| {NAMES[name]} | {last['steps']:,.0f} | " + " | ".join(values) + " |")
    lines.append("")
    for figure, shares in result["time_to_final"].items():
        for peer, share in shares.items():
            told = f"after {share:.0%} of its time" if share is not None else "not reached"
            lines.append(f"- {NAMES[peer]}'s final {FIGURES[figure]}: {told}")
    for name, found in result.get("prior", {}).items():
        lines.append(
            f"- {NAMES[name]}'s prior, {race.prior_minutes:g} minutes: Fréchet {found['frechet']:.1f}, class agreement "
            f"{found['class_agreement']:.1%} (real pictures {found['real_accuracy']:.1%}) at guidance "
            f"{found['guidance']:g}, {found['bits_per_code']:.2f} bits per code"
        )
    return "\n".join(lines) + "\n"


def settings(race: Race, names: list[str], about: dict[str, str]) -> str:
    """What all have in common, where they differ and why, and on what the race ran."""
    model, data = race.config().model, race.config().data
    lines = ["# Settings of this race", "", "All alike: " + ", ".join([
        f"{data.transform.size} px", f"{data.batch_size} pictures a step", f"{model.channels} channels",
        f"levels {model.channel_multipliers}", f"{model.res_blocks} blocks a level",
        f"{model.quantizer.codebook_size} codes of {model.quantizer.code_dim}",
        f"flipped pictures: {data.transform.flip}", f"{race.pictures} held-out pictures measured",
    ]) + ".", "", "| | " + " | ".join(NAMES.values()) + " | why |", "|---|---|---|---|---|"]  # fmt: skip
    lines += ["| " + " | ".join(row) + " |" for row in differences(race)]
    for name in names:
        last = json.loads((race.folder / name / "curve.json").read_text())["curve"][-1]
        lines.append(f"\n{NAMES[name]}: {last['seconds'] / last['steps']:.3f} seconds a step.")
    lines += ["", "Ran on: " + ", ".join(f"{name} {value}" for name, value in about.items()) + "."]
    return "\n".join(lines) + "\n"
