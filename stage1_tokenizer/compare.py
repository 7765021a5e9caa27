"""Compare tokenizers: `python -m stage1_tokenizer.compare --recipe R --train INDEX --held_out INDEX --out DIR`.

Trains VAE, VQ-VAE and VQGAN, then VQGAN with each other quantizer, on the same data, steps, networks and seed:

OUT/NAME/run            the training run; a finished one is reused, a broken one continued
OUT/NAME/metrics.json   stage1_tokenizer.evaluate on all held-out pictures
OUT/table.md, table.json, reconstructions.png
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.command.cli import UserError, parse, run

if TYPE_CHECKING:
    from torch import Tensor

PIXELS_ONLY = {"loss.pixel": "l2", "loss.perceptual.weight": 0, "loss.adversarial.weight": 0}
"""The losses of VAE and VQ-VAE: no LPIPS, no discriminator."""

PLAIN = {
    "codebook_size": 1024,
    "code_dim": 16,
    "l2_normalise": "false",
    "learning": "gradient",
    "start": "uniform",
    "revive_after": 0,
}
"""What a quantizer's settings are set back to before a variant's own, whatever the recipe has."""

LEARNED = {"start": "batch", "revive_after": 50}
SPHERE = {**LEARNED, "l2_normalise": "true"}
SMALL = {**LEARNED, "codebook_size": 32, "codebooks": 2}

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vae": ({"kind": "gaussian"}, PIXELS_ONLY),
    "vq-vae": ({"kind": "vq", **LEARNED}, PIXELS_ONLY),
    "vqgan": ({"kind": "vq", **LEARNED}, {}),
    "vq-sphere": ({"kind": "vq", **SPHERE}, {}),
    "vq-average": ({"kind": "vq", **SPHERE, "learning": "moving_average"}, {}),
    "vq-kmeans": ({"kind": "vq", **LEARNED, "start": "kmeans"}, {}),
    "vq-rotation": ({"kind": "vq", **LEARNED, "gradient": "rotation"}, {}),
    "simvq": ({"kind": "vq", "reparametrise": "linear"}, {}),
    "fsq": ({"kind": "fsq", "levels": "[8, 5, 5, 5]"}, {}),
    "lfq": ({"kind": "lfq"}, {}),
    "bsq": ({"kind": "bsq"}, {}),
    "gumbel": ({"kind": "gumbel"}, {}),
    "ibq": ({"kind": "ibq"}, {}),
    "residual": ({"kind": "residual", **SMALL}, {}),
    "product": ({"kind": "product", **SMALL, "l2_normalise": "true"}, {}),
    "multiscale": ({"kind": "multiscale", **LEARNED, "codebook_size": 256}, {}),
}
"""Name: settings of model.quantizer, and others. All but multiscale and vae have about 10 bits a position."""

COLUMNS = {
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "lpips": ("LPIPS", ".4f"),
    "bits_per_pixel": ("bits/pixel", ".3f"),
    "codebook_usage": ("codes used", ".1%"),
    "perplexity": ("perplexity", ".1f"),
}


@dataclass(frozen=True)
class CompareConfig:
    """Train tokenizers that differ in their quantizer or losses alone, and tabulate how well they reconstruct."""

    recipe: str
    """YAML file of stage1_tokenizer.train: networks, optimizer, transform, losses of all of them."""
    train: str
    """Index of the training pictures."""
    held_out: str
    """Index of the pictures that are measured."""
    out: str
    """Folder for runs, table and picture; finished runs in it are reused."""
    steps: int = 2000
    """Training steps of each; the adversarial term begins after a third of them."""
    variants: list[str] = field(default_factory=lambda: list(VARIANTS))
    """Which to train, in this order."""
    options: dict[str, str] = field(default_factory=dict)
    """Further settings of stage1_tokenizer.train for all of them, by dotted name."""
    processes: int = 1
    """Ranks of each training."""
    samples: int | None = None
    """Held-out pictures measured, evenly spaced; null: all."""
    lpips: bool = True
    """Measure LPIPS."""
    lpips_weights: str | None = None
    """File with the weights of LPIPS's network; null looks for an installed one."""
    pictures: int = 8
    """Held-out pictures in reconstructions.png."""

    def __post_init__(self) -> None:
        for name in self.variants:
            if name not in VARIANTS:
                raise ValueError(f"variants={name} is not known: choose among {', '.join(VARIANTS)}")
        for name in ("steps", "processes", "pictures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: set it to 1 or more")


def settings(config: CompareConfig, name: str, folder: Path, grid: int | None = None) -> dict[str, Any]:
    """Options of stage1_tokenizer.train for a variant. `grid` is the latent grid's side, which multiscale needs."""
    quantizer, others = VARIANTS[name]
    if quantizer["kind"] == "multiscale" and grid:
        quantizer = {**quantizer, "scales": str([1 << power for power in range(grid.bit_length() - 1)] + [grid])}
    return {
        "run.folder": folder,
        "data.index": config.train,
        "data.held_out": "null",
        "steps": config.steps,
        "run.save_every": max(1, config.steps // 4),
        "loss.adversarial.start": config.steps // 3,
        "loss.adversarial.ramp": config.steps // 12,
        "optimizer.warmup": config.steps // 50,
        **config.options,
        **{f"model.quantizer.{key}": value for key, value in {**PLAIN, **quantizer}.items()},
        **others,
    }


def train(config: CompareConfig, name: str, grid: int) -> Path:
    """Train a variant to its end, or find it trained; its run folder. UserError where the training fails."""
    folder = Path(config.out) / name / "run"
    options = settings(config, name, folder, grid)
    module = ["stage1_tokenizer.train"]
    if config.processes > 1:
        module = ["launch.local", "--processes", str(config.processes), *module]
    line = [sys.executable, "-m", *module, "--config", config.recipe]
    line += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    code = subprocess.run(line, check=False).returncode
    if code:
        raise UserError(f"variants={name} ended with exit code {code}: see {folder / 'log.txt'}, then start again")
    return folder


def measure(config: CompareConfig, name: str, folder: Path) -> dict[str, Any]:
    """A variant's figures, from its metrics.json where that is of these very weights and pictures."""
    from stage1_tokenizer.evaluate import EvaluateConfig, evaluate
    from stage1_tokenizer.tokenizer.opening import open_run

    out = folder.parent / "metrics.json"
    if out.exists():
        found: dict[str, Any] = json.loads(out.read_text())
        measured = found["measured"]
        same = measured["fingerprint"] == open_run(folder).tokenizer.fingerprint and measured["data"] == config.held_out
        if same and ("lpips" in found or not config.lpips) and config.samples in (None, found["samples"]):
            return found
    return evaluate(
        EvaluateConfig(
            tokenizer=str(folder),
            data=config.held_out,
            out=str(out),
            samples=config.samples,
            lpips=config.lpips,
            lpips_weights=config.lpips_weights,
            features="vgg16" if config.lpips else "none",
            overwrite=True,
        )
    )


def table(results: dict[str, dict[str, Any]], steps: int) -> str:
    """The figures as a Markdown table, with what they were measured on."""
    lines = ["| tokenizer | " + " | ".join(title for title, _ in COLUMNS.values()) + " |", "|---" * 7 + "|"]
    for name, found in results.items():
        cells = [format(found[key], form) if key in found else "–" for key, (_, form) in COLUMNS.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    last = list(results.values())[-1]
    measured = last["measured"]
    lines.append("")
    lines.append(
        f"{steps} steps each; {last['samples']} pictures of `{measured['data']}`; LPIPS {measured['lpips']}; "
        f"commit {measured['commit']}; {measured['hardware']}; {measured['date'][:10]}."
    )
    return "\n".join(lines) + "\n"


def picture(config: CompareConfig, folders: dict[str, Path], path: Path) -> None:
    """Held-out pictures in rows: the original first, then each variant's reconstruction, with its name above."""
    import numpy as np
    from PIL import Image, ImageDraw

    from data.pictures.transforms import to_float, to_uint8
    from data.reading.stream import every_sample
    from stage1_tokenizer.tokenizer.opening import open_run

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
    page.save(path, format="PNG")


def compare(config: CompareConfig) -> dict[str, dict[str, Any]]:
    """Train, measure and show all variants; the figures by name. The table grows with each variant."""
    from launch.files.atomic import write_atomically

    grid = latent_grid(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    folders: dict[str, Path] = {}
    for name in config.variants:
        folders[name] = train(config, name, grid)
        results[name] = measure(config, name, folders[name])
        write_atomically(out / "table.md", table(results, config.steps))
        write_atomically(out / "table.json", json.dumps(results, indent=2) + "\n")
    picture(config, folders, out / "reconstructions.png")
    print(table(results, config.steps))
    return results


def latent_grid(config: CompareConfig) -> int:
    """The side of the latent grid that recipe and options make; UserError where they don't load."""
    from stage1_tokenizer.config.training import TokenizerTrainConfig

    options = {**settings(config, "vqgan", Path(config.out) / "vqgan" / "run")}
    parts = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    made = parse(TokenizerTrainConfig, ["--config", config.recipe, *parts], prog="python -m stage1_tokenizer.train")
    return made.data.transform.size // made.model.stride


def main() -> None:
    """The command."""
    compare(parse(CompareConfig, prog="python -m stage1_tokenizer.compare"))


if __name__ == "__main__":
    run(main)
