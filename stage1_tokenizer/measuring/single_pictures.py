"""Single pictures and their reconstructions: pages next to each other, with figures and bytes for each.

Legend: B batch, C channels, H W pixels.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.pictures.config import TransformConfig
from data.pictures.decode import decode_picture
from data.pictures.transforms import to_float, to_uint8
from data.shards.sample import DamagedSampleError
from data.sounds.config import SoundConfig
from data.videos.config import VideoConfig
from launch.command.cli import UserError
from launch.files.atomic import new_folder
from launch.files.outputs import try_new_folder
from launch.files.places import place_name
from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.layers.precision import TYPES, Precision, at_precision
from stage1_tokenizer.losses.lpips import LPIPS, load_lpips
from stage1_tokenizer.measuring.picture_files import Files, finished
from stage1_tokenizer.measuring.scores import psnr
from stage1_tokenizer.measuring.side_by_side import side_by_side
from stage1_tokenizer.measuring.single_sounds import reconstruct_sounds, table_of_sounds
from stage1_tokenizer.measuring.single_videos import reconstruct_videos, table_of_videos, video_files
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import open_tokenizer
from stage1_tokenizer.tokenizer.pil import transformed
from stage1_tokenizer.tokenizer.tiling import TiledTokenizer

RESULTS = "reconstructions.json"
_SMALLEST = 32  # LPIPS's networks halve pictures several times


def reconstruct_files(
    files: Sequence[str],
    tokenizer: str,
    out: str,
    *,
    trained_size: bool,
    lpips: bool,
    tile: int,
    max_pixels: int,
    precision: Precision = "fp32",
) -> list[dict[str, Any]]:
    """Reconstruct files with a tokenizer of pictures, sounds or videos and write the folder `out`; each one's figures.

    `trained_size` crops and resizes as in training. Raises UserError for a picture that can't be read; then nothing is
    written.
    """
    try_new_folder("out", out)
    opened = open_tokenizer(tokenizer)
    if isinstance(opened.transform, SoundConfig):
        if trained_size:
            raise UserError("trained_size=true is for pictures: leave it out, and sounds are reconstructed whole")
        return reconstruct_sounds(files, opened, tokenizer, out, precision)
    network, rows = load_lpips() if lpips else None, list[dict[str, Any]]()
    install(network, "cpu")
    if isinstance(opened.transform, VideoConfig):
        reading = {"trained_size": trained_size, "max_pixels": max_pixels}
        return reconstruct_videos(video_files(files), opened, tokenizer, out, precision, lpips=network, **reading)
    if opened.transform is None or opened.config.spatial_dims != 2:
        raise UserError(f"tokenizer={tokenizer} is not one of pictures with a transform: choose another")
    files = [each for file in files for each in _picture_files(file)]
    fingerprint = opened.fingerprint
    opened.to(TYPES[precision])
    with new_folder(Path(out)) as part, at_precision(precision):
        for file, name in zip(files, _names(files), strict=True):
            pixels_CHW = read_picture(Path(file), opened, trained_size=trained_size, max_pixels=max_pixels)
            row, page_HWC = measure_picture(opened, pixels_CHW, network, tile)
            size = Path(file).stat().st_size
            rows.append(
                {
                    "file": Path(file).name,
                    "picture": name,
                    **row,
                    "file_bytes": size,
                    "smaller": size / row["code_bytes"],
                }
            )
            Image.fromarray(page_HWC).save(part / name)
        about = {
            "tokenizer": place_name(tokenizer),
            "fingerprint": fingerprint,
            "precision": precision,
            "pictures": rows,
        }
        (part / RESULTS).write_text(json.dumps(about, indent=1) + "\n")
    return rows


def read_picture(file: Path, tokenizer: Tokenizer, *, trained_size: bool, max_pixels: int) -> Tensor:
    """A file's pixels, uint8 (C, H, W), at their own size or prepared as in training; UserError for no picture."""
    transform = tokenizer.transform
    assert isinstance(transform, TransformConfig)
    whole = dataclasses.replace(transform, resize="bicubic")  # area would decode JPEGs at a part of their size
    try:
        pixels_HWC = decode_picture(file.read_bytes(), transform if trained_size else whole, max_pixels=max_pixels)
    except (OSError, DamagedSampleError) as error:
        raise UserError(f"{file} can't be used as a picture ({error}): leave it out, or convert it") from error
    if trained_size:
        return transformed(pixels_HWC, transform)
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1)


def measure_picture(
    tokenizer: Tokenizer, pixels_CHW: Tensor, lpips: LPIPS | None, tile: int = 0
) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of one picture, uint8 (C, H, W), and the picture next to its reconstruction, uint8 (H, W, 3)."""
    y_BCHW, codes = reconstruct_picture(tokenizer, pixels_CHW, tile)
    x_BCHW = pixels_CHW[None]
    height, width = pixels_CHW.shape[1:]
    row = {"width": width, "height": height, "psnr": float(psnr(x_BCHW, y_BCHW))}
    if lpips is not None and min(height, width) >= _SMALLEST:
        with torch.no_grad():
            row["lpips"] = float(lpips(to_float(y_BCHW), to_float(x_BCHW)))
    size = code_bytes(tokenizer, codes)
    row |= {"codes": 0 if codes is None else codes.numel(), "code_bytes": size}
    return row | {"bits_per_pixel": 8 * size / (height * width)}, side_by_side(x_BCHW, y_BCHW)


def reconstruct_picture(tokenizer: Tokenizer, pixels_CHW: Tensor, tile: int = 0) -> tuple[Tensor, Tensor | None]:
    """The reconstruction of a picture of any size, uint8 (1, C, H, W), and the codes of the padded picture."""
    (rows, columns), (height, width) = tokenizer.config.stride, pixels_CHW.shape[1:]
    x_BCHW = to_float(pixels_CHW[None])
    padded = F.pad(x_BCHW, (0, -width % columns, 0, -height % rows), mode="replicate")
    chosen = tokenizer
    if tile and max(padded.shape[2:]) > tile and not tokenizer.config.latent_tokens:
        stride = math.lcm(rows, columns)
        side = max(tile // stride, 2) * stride
        chosen = TiledTokenizer(tokenizer, tile=side, overlap=side // stride // 4 * stride)
    try:
        y_BCHW, codes = chosen.reconstruct(padded)
    except ValueError as error:
        raise UserError(f"a picture of {width}×{height}: {error}, or set trained_size=true") from error
    return to_uint8(y_BCHW[:, :, :height, :width]), codes


def code_bytes(tokenizer: Tokenizer, codes: Tensor | None) -> int:
    """Bytes of a picture's codes, each in as many bits as the codebook needs."""
    if codes is None:
        raise UserError("a Gaussian latent has no codes to count the bytes of: choose another tokenizer")
    return math.ceil(codes.numel() * math.ceil(math.log2(tokenizer.codebook_size)) / 8)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as lines of text."""
    if rows and "sound" in rows[0]:
        return table_of_sounds(rows)
    if rows and "video" in rows[0]:
        return table_of_videos(rows)
    lines = [
        f"{'picture':32} {'pixels':>11} {'PSNR':>6} {'LPIPS':>7} {'file':>10} {'codes':>9} {'bpp':>6} {'smaller':>8}"
    ]
    for row in rows:
        lpips = f"{row['lpips']:7.4f}" if "lpips" in row else "      –"
        lines.append(
            f"{row['file'][-32:]:32} {row['width']:>5}×{row['height']:<5} {row['psnr']:6.2f} {lpips} "
            f"{row['file_bytes']:>8} B {row['code_bytes']:>7} B {row['bits_per_pixel']:6.3f} {row['smaller']:>7.1f}×"
        )
    return "\n".join(lines)


def _picture_files(place: str) -> list[str]:
    """The pictures below a folder; a file, or what isn't there, as it is. UserError for a folder without pictures."""
    if not Path(place).is_dir():
        return [place]
    pictures = finished(place)
    if not isinstance(pictures, Files) or not pictures.names:
        raise UserError(f"files={place} is a folder without pictures: name another, or picture files")
    return [str(pictures.folder / name) for name in pictures.names]


def _names(files: Sequence[str]) -> list[str]:
    """A unique file name for each picture."""
    stems = [Path(file).stem for file in files]
    unique = [stem if stems.count(stem) == 1 else f"{stem}-{number}" for number, stem in enumerate(stems, start=1)]
    return [f"{name}.png" for name in unique]
