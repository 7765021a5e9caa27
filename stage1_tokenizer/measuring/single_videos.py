"""Single video files and their reconstructions, moving beside each other and as strips, with figures and bytes.

Legend: B batch, C channels, T frames, H W pixels.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.pictures.transforms import apply, to_float, to_uint8
from data.shards.sample import DamagedSampleError
from data.shards.signature import VIDEOS
from data.videos.choice import shown_at
from data.videos.colours import to_sdr
from data.videos.config import VideoConfig
from data.videos.files import open_video
from data.videos.shown import film
from launch.command.cli import UserError
from launch.files.atomic import new_folder, write_file
from launch.files.places import place_name
from stage1_tokenizer.layers.precision import TYPES, Precision, at_precision
from stage1_tokenizer.layers.video import frames_of
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.measuring.scores import psnr
from stage1_tokenizer.measuring.video_features import in_parts
from stage1_tokenizer.measuring.video_metrics import difference_psnr
from stage1_tokenizer.measuring.videos_shown import pair, sheet, strip
from stage1_tokenizer.tokenizer.model import Tokenizer

RESULTS = "reconstructions.json"
_SMALLEST = 32  # LPIPS's networks halve pictures several times


def reconstruct_videos(
    files: Sequence[Path],
    opened: Tokenizer,
    tokenizer: str,
    out: str,
    precision: Precision,
    *,
    lpips: LPIPS | None,
    **reading: Any,
) -> list[dict[str, Any]]:
    """Reconstruct video files, whole, and write the folder `out`; the figures of each. `reading` is `read_video`'s.

    OUT/NAME.webp moves the original beside its reconstruction, OUT/NAME.png has strips of their frames. UserError for a
    video that can't be read; then nothing is written.
    """
    transform, rows, fingerprint = opened.transform, list[dict[str, Any]](), opened.fingerprint
    assert isinstance(transform, VideoConfig)
    stems = [file.stem for file in files]
    opened.to(TYPES[precision])
    with new_folder(Path(out)) as folder, at_precision(precision):
        for number, file in enumerate(files, start=1):
            name = file.stem if stems.count(file.stem) == 1 else f"{file.stem}-{number}"
            x_CTHW, rate = read_video(file, transform, **reading)
            row, y_CTHW = measure_video(opened, x_CTHW, rate, lpips)
            row |= {"file_bytes": file.stat().st_size, "smaller": file.stat().st_size / row["code_bytes"]}
            rows.append({"file": file.name, "video": f"{name}.webp", **row})
            both = [each.numpy() for each in (x_CTHW, y_CTHW)]
            write_file(folder / f"{name}.webp", film(pair(*both), rate))
            Image.fromarray(sheet([strip(each) for each in both])).save(folder / f"{name}.png")
        about = {"tokenizer": place_name(tokenizer), "fingerprint": fingerprint, "precision": precision, "videos": rows}
        (folder / RESULTS).write_text(json.dumps(about, indent=1) + "\n")
    return rows


def read_video(file: Path, transform: VideoConfig, *, trained_size: bool, max_pixels: int) -> tuple[Tensor, float]:
    """All frames of a file at the rate of a transform, uint8 (C, T, H, W), and that rate.

    They have their own size, or with `trained_size` are cropped and resized as in training. UserError for what is no
    video, and for more than `max_pixels` in all frames together.
    """
    frames: list[np.ndarray] = []
    try:
        with open_video(file.read_bytes(), max_pixels) as video:
            rate = transform.frame_rate or (video.frames / max(float(video.times[-1]), 1e-3) / transform.stride)
            numbers = list(range(0, video.frames, transform.stride))
            if transform.frame_rate is not None:
                numbers = shown_at(video.times, 0, max(1, round(float(video.times[-1]) * rate)), rate)
            distinct = sorted(set(numbers))
            for number, pixels_HWC in zip(distinct, video.read(distinct, transform), strict=True):
                if video.hdr:
                    to_sdr(pixels_HWC, video.hdr)
                frame_HWC = _trained(pixels_HWC, transform) if trained_size else pixels_HWC.copy()
                frames += [frame_HWC] * numbers.count(number)
                if len(numbers) * frame_HWC[..., 0].size > max_pixels:
                    height, width = frame_HWC.shape[:2]
                    raise UserError(
                        f"{file} has {len(numbers)} frames of {width}×{height}, more than max_pixels={max_pixels} in "
                        "all: set trained_size=true, cut it, or raise max_pixels"
                    )
    except (OSError, DamagedSampleError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{file} can't be used as a video ({why}): leave it out, or convert it") from error
    return torch.from_numpy(np.stack(frames).transpose(3, 0, 1, 2).copy()), rate


def _trained(pixels_HWC: np.ndarray, transform: VideoConfig) -> np.ndarray:
    out_CHW = np.empty((transform.channels, transform.size, transform.size), np.uint8)
    apply(pixels_HWC, transform, None, out_CHW.transpose(1, 2, 0))
    return out_CHW.transpose(1, 2, 0)


def measure_video(
    tokenizer: Tokenizer, x_CTHW: Tensor, rate: float, lpips: LPIPS | None
) -> tuple[dict[str, Any], Tensor]:
    """Figures of one uint8 video of any length and size, and its reconstruction.

    The last frame, row and column are repeated up to what the strides need, and cut off again.
    """
    frames, height, width = x_CTHW.shape[1:]
    alone = (int(tokenizer.config.first_alone), 0, 0)
    axes = zip((frames, height, width), alone, tokenizer.config.stride, strict=True)
    over = [(lone - size) % step for size, lone, step in axes]
    padded = F.pad(to_float(x_CTHW[None]), (0, over[2], 0, over[1], 0, over[0]), mode="replicate")
    y_BCTHW, codes = tokenizer.reconstruct(padded)
    if codes is None:
        raise UserError("a Gaussian latent has no codes to count the bytes of: choose another tokenizer")
    y_CTHW = to_uint8(y_BCTHW)[0, :, :frames, :height, :width]
    bits = codes.numel() * (tokenizer.codebook_size - 1).bit_length()
    row: dict[str, Any] = {"frames": frames, "width": width, "height": height, "seconds": frames / rate}
    row["psnr"] = float(psnr(frames_of(y_CTHW[None]), frames_of(x_CTHW[None])).mean())
    if frames > 1:
        row["difference_psnr"] = float(difference_psnr(x_CTHW[None], y_CTHW[None]))
    if lpips is not None and min(height, width) >= _SMALLEST:
        pairs = zip(*(in_parts(frames_of(each[None])[:, :, None]) for each in (y_CTHW, x_CTHW)), strict=True)
        with torch.no_grad():
            found = [lpips(*(to_float(each[:, :, 0]) for each in both)) for both in pairs]
        row["lpips"] = float(torch.cat(found).mean())
    size = -(-bits // 8)
    row |= {"codes": codes.numel(), "code_bytes": size, "bits_per_pixel": bits / (frames * height * width)}
    return row | {"bits_per_second": bits * rate / frames}, y_CTHW


def table_of_videos(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as lines of text."""
    lines = [
        f"{'video':28} {'frames':>6} {'pixels':>11} {'PSNR':>6} {'differ.':>7} {'LPIPS':>7} {'file':>10} {'codes':>9} "
        f"{'kbit/s':>7} {'smaller':>8}"
    ]
    for row in rows:
        lpips = f"{row['lpips']:7.4f}" if "lpips" in row else "      –"
        differ = f"{row['difference_psnr']:7.2f}" if "difference_psnr" in row else "      –"
        lines.append(
            f"{row['file'][-28:]:28} {row['frames']:>6} {row['width']:>5}×{row['height']:<5} {row['psnr']:6.2f} "
            f"{differ} {lpips} {row['file_bytes']:>8} B {row['code_bytes']:>7} B {row['bits_per_second'] / 1000:7.2f} "
            f"{row['smaller']:>7.1f}×"
        )
    return "\n".join(lines)


def video_files(places: Sequence[str]) -> list[Path]:
    """The videos below folders; files, or what isn't there, as they are. UserError for a folder without videos."""
    found: list[Path] = []
    for place in map(Path, places):
        below = sorted(path for path in place.rglob("*") if path.suffix[1:].lower() in VIDEOS and path.is_file())
        if place.is_dir() and not below:
            raise UserError(f"files={place} is a folder without videos: name another, or video files")
        found += below if place.is_dir() else [place]
    return found
