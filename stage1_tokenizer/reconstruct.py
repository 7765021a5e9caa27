"""Pictures beside their reconstructions: `python -m stage1_tokenizer.reconstruct FILES… --tokenizer DIR --out OUT`.

OUT/NAME.png                each picture, and its reconstruction to the right
OUT/reconstructions.json    PSNR, LPIPS, bytes of the file and of the codes for each; also told as a table

Pictures keep their size: what a side lacks to a multiple of the tokenizer's stride is filled with the last row or
column, and cut off again. Large ones go through in overlapping tiles.
Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.command.cli import UserError, parse, run

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stage1_tokenizer.losses.lpips import LPIPS
    from stage1_tokenizer.tokenizer.model import Tokenizer

RESULTS = "reconstructions.json"
_LEAST = 32  # LPIPS's networks halve pictures several times


@dataclass(frozen=True)
class ReconstructConfig:
    """Show what a tokenizer keeps of some pictures, and in how many bytes."""

    files: list[str]
    """Pictures, in any format that can be read; on the command line, the first words."""
    tokenizer: str
    """A released tokenizer's folder, its name on the Hub, or a run's folder."""
    out: str
    """Folder to be made; one that exists is left alone."""
    trained_size: bool = False
    """Crop and resize pictures as in training instead of keeping their size."""
    lpips: bool = True
    """Measure LPIPS (vgg) too."""
    tile: int = 1024
    """Side of the tiles, in pixels, in which larger pictures go through; 0: always whole."""
    max_pixels: int = 100_000_000
    """Pictures with more pixels are refused."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files is empty: name one or more pictures")
        if self.tile < 0 or self.max_pixels < 1:
            raise ValueError(f"tile={self.tile} or max_pixels={self.max_pixels} is too small: leave them out")


def reconstruct(config: ReconstructConfig) -> list[dict[str, Any]]:
    """Reconstruct all pictures and write the folder; the figures of each.

    Raises UserError for a picture that can't be read, before anything is written.
    """
    from stage1_tokenizer.kernels.install import install
    from stage1_tokenizer.losses.lpips import load_lpips
    from stage1_tokenizer.publishing.folder import new_folder
    from stage1_tokenizer.tokenizer.opening import open_tokenizer

    tokenizer = open_tokenizer(config.tokenizer)
    if tokenizer.transform is None or tokenizer.config.spatial_dims != 2:
        raise UserError(f"tokenizer={config.tokenizer} is not one of pictures with a transform: choose another")
    lpips = load_lpips() if config.lpips else None
    install(lpips, "cpu")
    names = _names(config.files)
    rows = []
    with new_folder(Path(config.out)) as part:
        part.mkdir(parents=True)
        for file, name in zip(config.files, names, strict=True):
            pixels_CHW = read_picture(Path(file), tokenizer, config)
            row, page_HWC = measured(tokenizer, pixels_CHW, lpips, config.tile)
            size = Path(file).stat().st_size
            rows.append({"file": file, "picture": name, **row, "file_bytes": size, "smaller": size / row["code_bytes"]})
            _save(part / name, page_HWC)
        about = {"tokenizer": config.tokenizer, "fingerprint": tokenizer.fingerprint, "pictures": rows}
        (part / RESULTS).write_text(json.dumps(about, indent=1) + "\n")
    return rows


def read_picture(file: Path, tokenizer: Tokenizer, config: ReconstructConfig) -> Tensor:
    """A file's pixels, uint8 (C, H, W): of its own size, or prepared as in training. UserError if it is no picture."""
    import torch

    from data.pictures.decode import decode_picture
    from data.shards.sample import DamagedSampleError
    from stage1_tokenizer.tokenizer.pil import transformed

    transform = tokenizer.transform
    assert transform is not None
    whole = dataclasses.replace(transform, resize="bicubic")  # area would decode JPEGs at a part of their size
    try:
        chosen = transform if config.trained_size else whole
        pixels_HWC = decode_picture(file.read_bytes(), chosen, max_pixels=config.max_pixels)
    except (OSError, DamagedSampleError) as error:
        raise UserError(f"{file} can't be used as a picture ({error}): leave it out, or convert it") from error
    if config.trained_size:
        return transformed(pixels_HWC, transform)
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1)


def measured(
    tokenizer: Tokenizer, pixels_CHW: Tensor, lpips: LPIPS | None, tile: int = 0
) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of one picture, uint8 (C, H, W), and the picture beside its reconstruction, uint8 (H, W, 3)."""
    from stage1_tokenizer.measuring.scores import psnr
    from stage1_tokenizer.measuring.side_by_side import side_by_side

    y_BCHW, codes = through(tokenizer, pixels_CHW, tile)
    x_BCHW = pixels_CHW[None]
    height, width = pixels_CHW.shape[1:]
    row = {"width": width, "height": height, "psnr": float(psnr(x_BCHW, y_BCHW))}
    if lpips is not None and min(height, width) >= _LEAST:
        row["lpips"] = _lpips(lpips, x_BCHW, y_BCHW)
    size = code_bytes(tokenizer, codes)
    row |= {"codes": 0 if codes is None else codes.numel(), "code_bytes": size}
    return row | {"bits_per_pixel": 8 * size / (height * width)}, side_by_side(x_BCHW, y_BCHW)


def through(tokenizer: Tokenizer, pixels_CHW: Tensor, tile: int = 0) -> tuple[Tensor, Tensor | None]:
    """The reconstruction of a picture of any size, uint8 (1, C, H, W), and the codes of the filled-up picture."""
    import torch.nn.functional as F

    from data.pictures.transforms import to_float, to_uint8
    from stage1_tokenizer.tokenizer.tiling import TiledTokenizer

    stride, (height, width) = tokenizer.stride, pixels_CHW.shape[1:]
    x_BCHW = to_float(pixels_CHW[None])
    padded = F.pad(x_BCHW, (0, -width % stride, 0, -height % stride), mode="replicate")
    chosen = tokenizer
    if tile and max(padded.shape[2:]) > tile and not tokenizer.config.latent_tokens:
        side = max(tile // stride, 2) * stride
        chosen = TiledTokenizer(tokenizer, tile=side, overlap=side // stride // 4 * stride)
    try:
        y_BCHW, codes = chosen.reconstruct(padded)
    except ValueError as error:
        raise UserError(f"a picture of {width}×{height}: {error}, or set trained_size=true") from error
    return to_uint8(y_BCHW[:, :, :height, :width]), codes


def code_bytes(tokenizer: Tokenizer, codes: Tensor | None) -> int:
    """Bytes that a picture's codes take, each in as many bits as the codebook needs."""
    if codes is None:
        raise UserError("a Gaussian latent has no codes, so their bytes can't be told: choose another tokenizer")
    return math.ceil(codes.numel() * math.ceil(math.log2(tokenizer.codebook_size)) / 8)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as lines of text."""
    lines = [
        f"{'picture':32} {'pixels':>11} {'PSNR':>6} {'LPIPS':>7} {'file':>10} {'codes':>9} {'bpp':>6} {'smaller':>8}"
    ]
    for row in rows:
        lpips = f"{row['lpips']:7.4f}" if "lpips" in row else "      –"
        lines.append(
            f"{Path(row['file']).name[-32:]:32} {row['width']:>5}×{row['height']:<5} {row['psnr']:6.2f} {lpips} "
            f"{row['file_bytes']:>8} B {row['code_bytes']:>7} B {row['bits_per_pixel']:6.3f} {row['smaller']:>7.1f}×"
        )
    return "\n".join(lines)


def _lpips(lpips: LPIPS, x_BCHW: Tensor, y_BCHW: Tensor) -> float:
    import torch

    from data.pictures.transforms import to_float

    with torch.no_grad():
        return float(lpips(to_float(y_BCHW), to_float(x_BCHW)))


def _names(files: Sequence[str]) -> list[str]:
    """A name of its own for each picture."""
    stems = [Path(file).stem for file in files]
    told = [stem if stems.count(stem) == 1 else f"{stem}-{number}" for number, stem in enumerate(stems, start=1)]
    return [f"{name}.png" for name in told]


def _save(path: Path, page_HWC: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(page_HWC).save(path)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    prog = "python -m stage1_tokenizer.reconstruct FILES…"
    config = parse(ReconstructConfig, argv, prog=prog, positional=("files",))
    print(table(reconstruct(config)))
    print(config.out)


if __name__ == "__main__":
    run(main)
