"""Trains tokenizers that differ in quantizer or losses only, measures them, and shows them in a table and a picture.

Legend: B batch, C channels, H W pixels.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from data.pictures.transforms import to_float, to_uint8
from data.reading.stream import every_sample
from data.shards.identity import Identity, name_of
from data.shards.loading import load_index
from data.sounds import batches as sounds
from launch.command.cli import UserError, parse
from launch.files.atomic import write_file, writing
from launch.files.outputs import try_folder
from stage1_tokenizer.config.comparison import PERTURBED, PERTURBED_NAME, PLAIN, CompareConfig, variants_of
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer
from stage1_tokenizer.measuring.small_prior import judged
from stage1_tokenizer.measuring.sounds_shown import spectrograms
from stage1_tokenizer.measuring.videos_shown import sheet, strip
from stage1_tokenizer.tokenizer.opening import open_run

SOUND_COLUMNS = {
    "mel_distance": ("mel distance", ".3f"),
    "stft_distance": ("STFT distance", ".3f"),
    "si_sdr": ("SI-SDR", ".2f"),
    "stoi": ("STOI", ".3f"),
    "bits_per_second": ("bits/s", ".0f"),
    "codebook_usage": ("codes used", ".1%"),
}
VIDEO_COLUMNS = {
    "psnr": ("PSNR", ".2f"),
    "difference_psnr": ("PSNR of changes", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "lpips": ("LPIPS", ".4f"),
    "flicker": ("flicker", ".4f"),
    "bits_per_pixel": ("bits/pixel", ".4f"),
    "codebook_usage": ("codes used", ".1%"),
}
COLUMNS = {
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "lpips": ("LPIPS", ".4f"),
    "bits_per_pixel": ("bits/pixel", ".3f"),
    "codebook_usage": ("codes used", ".1%"),
    "perplexity": ("perplexity", ".1f"),
}

PRIOR_COLUMNS = {
    "frechet_vgg16": ("Fréchet (VGG16)", ".1f"),
    PERTURBED_NAME: ("a fifth of the codes wrong", ".1f"),
    "prior_frechet_vgg16": ("of the prior's samples", ".1f"),
    "prior_bits_per_code": ("prior's bits/code", ".2f"),
}
"""What a comparison with priors shows besides, of what was measured."""


def settings(
    config: CompareConfig, name: str, folder: Path, grid: int | None = None, kind: str = "pictures"
) -> dict[str, Any]:
    """Options of stage1_tokenizer.train for a variant; `grid` is the side of the latent grid, for multiscale."""
    quantizer, others = variants_of(kind)[name]
    if quantizer["kind"] == "multiscale" and grid:
        quantizer = {**quantizer, "scales": str([1 << power for power in range(grid.bit_length() - 1)] + [grid])}
    return {
        "run.folder": folder,
        "data.index": config.train,
        "data.held_out": "null",
        "steps": config.steps,
        "run.save_every": max(1, config.steps // 4),
        "data.early_steps": 0,
        "loss.adversarial.start": config.steps // 3,
        "loss.adversarial.ramp": config.steps // 12,
        "optimizer.warmup": config.steps // 50,
        **config.options,
        **{f"model.quantizer.{key}": value for key, value in {**PLAIN, **quantizer}.items()},
        **others,
    }


def train(config: CompareConfig, name: str, grid: int, kind: str) -> Path:
    """Train a variant, unless it is trained already; its run folder. UserError if the training fails."""
    folder = Path(config.out) / name / "run"
    module = ["stage1_tokenizer.train"]
    if config.processes > 1:
        module = ["launch.local", "--processes", str(config.processes), *module]
    line = [sys.executable, "-m", *module, *words(config, settings(config, name, folder, grid, kind))]
    code = subprocess.run(line, check=False).returncode
    if code:
        raise UserError(
            f"variants={name} ended with exit code {code}: see {folder / 'log.txt'}, then rerun the command"
        )
    return folder


def words(config: CompareConfig, options: dict[str, Any]) -> list[str]:
    """The command line of stage1_tokenizer.train with the recipe and these options."""
    return ["--config", config.recipe, *(part for key, value in options.items() for part in (f"--{key}", str(value)))]


def measure(config: CompareConfig, name: str, folder: Path) -> dict[str, Any]:
    """Figures of a variant, from its metrics.json if that was measured on the same weights and pictures."""
    out = folder.parent / "metrics.json"
    perturbed = PERTURBED if config.prior != "none" and name != "vae" else {}
    if out.exists():
        known: dict[str, Any] = json.loads(out.read_text())
        measured = known["measured"]
        data = Identity.of(load_index(config.held_out)).brief()
        same = measured["fingerprint"] == open_run(folder).tokenizer.fingerprint and measured["data"] == data
        complete = "lpips" in known or not config.lpips or "mel_distance" in known
        needed = ["frechet_vgg16"] * (config.prior != "none") + [PERTURBED_NAME] * bool(perturbed)
        complete = complete and all(key in known for key in needed)
        if same and complete and config.samples in (None, known["samples"]):
            return known
    return evaluate_tokenizer(
        EvaluateConfig(
            tokenizer=str(folder),
            data=config.held_out,
            out=str(out),
            samples=config.samples,
            lpips=config.lpips,
            lpips_weights=config.lpips_weights,
            features="vgg16" if config.lpips or config.prior != "none" else "none",
            overwrite=True,
            **perturbed,
        )
    )


def table(results: dict[str, dict[str, Any]], steps: int) -> str:
    """The figures as a Markdown table, with their conditions."""
    rows = list(results.values())
    last, of_priors = rows[-1], any("prior_samples" in row for row in rows)
    measured = last["measured"]
    kind = (measured.get("transform") or {}).get("kind", "pictures")
    shown = [key for key in PRIOR_COLUMNS if of_priors and any(key in row for row in rows)]
    columns = {"sounds": SOUND_COLUMNS, "videos": VIDEO_COLUMNS}.get(kind, COLUMNS)
    columns = columns | {key: PRIOR_COLUMNS[key] for key in shown}
    lines = ["| tokenizer | " + " | ".join(title for title, _ in columns.values()) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, figures in results.items():
        fewer = figures.get("by_books", [])[:-1]
        for title, row in [(name, figures), *((f"{name}, first {one['books']}", one) for one in fewer)]:
            cells = [format(row[key], form) if key in row else "–" for key, (_, form) in columns.items()]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    samples = f"{last['samples']} {kind} of `{name_of(measured['data'])}`"
    conditions = [f"{steps} steps each", samples, *([f"LPIPS {measured['lpips']}"] if "lpips" in measured else [])]
    if of_priors:
        conditions += [f"{max(row.get('prior_samples', 0) for row in rows)} samples of each small prior"]
    conditions += [f"commit {measured['commit']}", measured["hardware"], f"{measured['date'][:10]}."]
    return "\n".join([*lines, "\n" + "; ".join(conditions)]) + "\n"


def picture(config: CompareConfig, folders: dict[str, Path], path: Path) -> None:
    """Held-out pictures in rows: the original, then each variant's reconstruction, with names above the columns."""
    columns: dict[str, Tensor] = {}
    for name, folder in folders.items():
        tokenizer = open_run(folder).tokenizer
        assert tokenizer.transform is not None
        batch = next(iter(every_sample(config.held_out, tokenizer.transform, batch_size=64, limit=config.pictures)))
        columns.setdefault("original", batch.pixels_BCHW)
        columns[name] = to_uint8(tokenizer.reconstruct(to_float(batch.pixels_BCHW))[0])
    count, _, height, width = columns["original"].shape
    scale = max(1, 72 // width)
    step_x, step_y, top = width * scale + 4, height * scale + 4, 14
    page = Image.new("RGB", (step_x * len(columns), top + step_y * count), "white")
    draw = ImageDraw.Draw(page)
    for column, (name, x_BCHW) in enumerate(columns.items()):
        draw.text((column * step_x, 1), name, fill="black")
        for row, x_CHW in enumerate(x_BCHW[:count]):
            pixels_HWC = np.ascontiguousarray(x_CHW.expand(3, -1, -1).permute(1, 2, 0).numpy())
            shown = Image.fromarray(pixels_HWC).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            page.paste(shown, (column * step_x, top + row * step_y))
    with writing(path) as file:
        page.save(file, format="PNG")


def page_of_sounds(config: CompareConfig, folders: dict[str, Path], path: Path) -> None:
    """Spectrograms of held-out sounds in rows: the original, then each variant's reconstruction, in their order."""
    rows = _rows(config, folders, lambda batch: batch.samples_BCT, sounds.to_float, sounds.to_int16)
    with writing(path) as file:
        Image.fromarray(spectrograms(rows)).save(file, format="PNG")


def page_of_videos(config: CompareConfig, folders: dict[str, Path], path: Path) -> None:
    """Frames of held-out videos below each other: the original, then each variant's reconstruction, in their order."""
    rows = _rows(config, folders, lambda batch: batch.pixels_BCTHW, to_float, to_uint8)
    with writing(path) as file:
        Image.fromarray(sheet([strip(clip) for row in rows for clip in row], len(folders) + 1)).save(file, format="PNG")


def _rows(
    config: CompareConfig,
    folders: dict[str, Path],
    stored: Callable[[Any], Tensor],
    to_input: Callable[[Tensor], Tensor],
    to_stored: Callable[[Tensor], Tensor],
) -> list[list[np.ndarray]]:
    """Held-out samples as they are stored, each followed by all variants' reconstructions."""
    rows: list[list[np.ndarray]] = []
    for folder in folders.values():
        tokenizer = open_run(folder).tokenizer
        assert tokenizer.transform is not None
        batch = next(iter(every_sample(config.held_out, tokenizer.transform, batch_size=64, limit=config.pictures)))
        rows = rows or [[sample.numpy()] for sample in stored(batch)]
        made = to_stored(tokenizer.reconstruct(to_input(stored(batch)))[0])
        for row, sample in zip(rows, made, strict=True):
            row.append(sample.numpy())
    return rows


def compare(config: CompareConfig) -> dict[str, dict[str, Any]]:
    """Train, measure and show all variants; the figures by name. The table is rewritten after each variant.

    UserError for a variant that isn't for the recipe's kind of data.
    """
    try_folder("out", config.out)
    kind, grid = kind_and_grid(config)
    if kind == "texts":
        raise UserError(f"recipe={config.recipe} is of texts, which are not compared: give one of other samples")
    names = config.variants or list(variants_of(kind))
    for name in names:
        if name not in variants_of(kind):
            raise UserError(f"variants={name} is not for {kind}: choose among {', '.join(variants_of(kind))}")
    if config.prior != "none" and kind != "pictures":
        raise UserError(f"prior={config.prior} is for pictures, not for {kind}: leave it out")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    folders: dict[str, Path] = {}
    for name in names:
        folders[name] = train(config, name, grid, kind)
        results[name] = measure(config, name, folders[name])
        if config.prior == "small":
            results[name] |= judged(config, name, open_run(folders[name]).tokenizer)
        write_file(out / "table.md", table(results, config.steps))
        write_file(out / "table.json", json.dumps(results, indent=2) + "\n")
    show = {"sounds": page_of_sounds, "videos": page_of_videos}.get(kind, picture)
    show(config, folders, out / "reconstructions.png")
    print(table(results, config.steps))
    return results


def kind_and_grid(config: CompareConfig) -> tuple[str, int]:
    """Kind of data and side of the latent grid for this recipe and options; UserError if they don't load."""
    options = settings(config, "vqgan", Path(config.out) / "vqgan" / "run")
    resolved = parse(TokenizerTrainConfig, words(config, options), prog="python -m stage1_tokenizer.train")
    return resolved.data.kind, resolved.data.transform.sizes[0] // resolved.model.stride[0]
