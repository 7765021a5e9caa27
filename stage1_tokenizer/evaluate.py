"""Measure a tokenizer: `python -m stage1_tokenizer.evaluate --tokenizer DIR --data INDEX --out FILE.json`.

On several ranks with `accelerate launch`; every picture counts exactly once, whatever their number.
Legend: B batch, C channels, H W pixels, h w latent grid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.cli import UserError, parse, run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from data.stream import Batch
    from data.transforms import TransformConfig
    from stage1_tokenizer.perceptual import LPIPS
    from stage1_tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a tokenizer's reconstructions and its use of the codebook on a set of pictures."""

    tokenizer: str
    """Folder of a released tokenizer, or of a run (its newest checkpoint's averaged weights are measured)."""
    data: str
    """Path or URL of the index of the pictures."""
    out: str
    """JSON file for the figures."""
    pictures: str | None = None
    """PNG file for originals beside their reconstructions."""
    picture_count: int = 32
    """Pictures in that file, evenly spaced over the set."""
    samples: int | None = None
    """Pictures measured, evenly spaced over the set; null: all."""
    batch_size: int = 64
    """Pictures in a batch of each rank."""
    threads: int = 2
    """Reading and decoding threads of each rank."""
    lpips: bool = True
    """Measure LPIPS (it takes most of the time)."""
    lpips_net: str = "vgg"
    """LPIPS's network: vgg or alex."""
    lpips_weights: str | None = None
    """File with that network's weights; null looks for an installed one."""
    overwrite: bool = False
    """Write over `out` and `pictures` where they exist."""

    def __post_init__(self) -> None:
        for name in ("picture_count", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: set it to 1 or more")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples={self.samples} is too small: set it to 1 or more, or to null for all")
        if self.lpips_net not in ("vgg", "alex"):
            raise ValueError(f"lpips_net={self.lpips_net} is not known: use vgg or alex")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure, write `out` and `pictures`, and return the figures (the same on every rank)."""
    for path in (config.out, config.pictures):
        if path and Path(path).exists() and not config.overwrite:
            raise UserError(f"{path} exists: choose another file, delete it, or set --overwrite true")

    from data.stream import every_sample
    from launch.distributed import total
    from launch.folder import write_atomically
    from launch.ranks import joined
    from stage1_tokenizer.perceptual import load_lpips
    from stage1_tokenizer.pictures import save_pictures
    from stage1_tokenizer.release import open_tokenizer

    tokenizer = open_tokenizer(config.tokenizer)
    transform = transform_of(tokenizer, config.tokenizer)
    lpips = load_lpips(config.lpips_net, config.lpips_weights) if config.lpips else None
    with joined() as ranks:
        tokenizer.to(ranks.device)
        world_size = ranks.num_processes
        batches = every_sample(
            config.data,
            transform,
            batch_size=config.batch_size,
            threads=config.threads,
            rank=ranks.process_index,
            world_size=world_size,
            limit=config.samples,
        )
        figures = measure(
            tokenizer,
            _shown(batches, ranks.is_main_process),
            lpips.to(ranks.device) if lpips else None,
            device=ranks.device,
            total=lambda tensor: total(tensor, world_size),
        )
        found = {**figures, "measured": circumstances(config, tokenizer, transform)}
        if ranks.is_main_process:
            if config.pictures:
                save_pictures(Path(config.pictures), tokenizer, config.data, config.picture_count)
            Path(config.out).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(config.out), json.dumps(found, indent=2) + "\n")
            print(json.dumps(figures))
    return found


def _shown(batches: Iterable[Batch], shown: bool) -> Iterable[Batch]:
    from data.progress import Progress

    with Progress("evaluate tokenizer", None, unit="pictures", enabled=shown) as bar:
        for batch in batches:
            yield batch
            bar.advance(len(batch.keys))


def measure(
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    lpips: LPIPS | None,
    *,
    device: torch.device,
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> dict[str, float]:
    """PSNR, SSIM, LPIPS and codebook use over this rank's batches and, through `total`, the other ranks'.

    Keys: psnr (dB), ssim (pictures of 11 pixels and more), lpips, codes_used, codebook_usage, entropy_bits (per code),
    perplexity, bits_per_pixel (at log2 K bits a code), samples. `tokenizer` is in evaluation mode.
    """
    import torch

    from data.transforms import to_float, to_uint8
    from stage1_tokenizer import measures

    scores = measures.Scores(tokenizer.codebook_size, device, tokenizer.codebooks)
    size = tokenizer.transform.size if tokenizer.transform else measures.WINDOW
    names = ("psnr", *(["ssim"] if size >= measures.WINDOW else []), *(["lpips"] if lpips is not None else []))
    for batch in batches:
        pixels_BCHW = batch.pixels_BCHW.to(device, non_blocking=True)
        x_BCHW = to_float(pixels_BCHW)
        with torch.no_grad():
            recon_BCHW, idx_Bhw = tokenizer.reconstruct(x_BCHW)
            rounded_BCHW = to_uint8(recon_BCHW)
            found = {"psnr": measures.psnr(rounded_BCHW, pixels_BCHW)}
            if "ssim" in names:
                found["ssim"] = measures.ssim(rounded_BCHW, pixels_BCHW)
            if lpips is not None:
                found["lpips"] = lpips(to_float(rounded_BCHW), x_BCHW)
        scores.add(found, idx_Bhw, x_BCHW)
    return scores.result(names, total)


def circumstances(config: EvaluateConfig, tokenizer: Tokenizer, transform: TransformConfig) -> dict[str, Any]:
    """What the figures depend on, for the JSON."""
    from launch.facts import facts

    known = facts()
    return {
        "data": config.data,
        "pictures": "clamped and rounded to 8 bits, data range 255; every picture once, mean over pictures",
        "ssim": "gaussian window of 11, sigma 1.5, inside the picture only, mean over channels",
        "lpips": f"{config.lpips_net}, version 0.1" if config.lpips else "not measured",
        "transform": transform.to_dict(),
        "fingerprint": tokenizer.fingerprint,
        **{name: known[name] for name in ("commit", "hardware", "versions", "date")},
    }


def transform_of(tokenizer: Tokenizer, source: str) -> TransformConfig:
    """How pictures are prepared for a tokenizer; UserError where it came without that."""
    if tokenizer.transform is None:
        raise UserError(f"{source} has no preprocessor_config.json: how pictures are prepared for it is unknown")
    return tokenizer.transform


def main() -> None:
    """The command."""
    evaluate(parse(EvaluateConfig, prog="python -m stage1_tokenizer.evaluate"))


if __name__ == "__main__":
    run(main)
