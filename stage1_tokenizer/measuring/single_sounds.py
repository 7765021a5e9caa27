"""Single sound files and their reconstructions: FLAC files and spectrograms, with figures and bytes for each.

Legend: B batch, C channels, T samples.
"""

import json
import math
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.shards.sample import DamagedSampleError
from data.shards.signature import SOUNDS
from data.sounds.batches import to_float, to_int16
from data.sounds.config import SoundConfig
from launch.command.cli import UserError
from launch.files.atomic import new_folder, write_file
from launch.files.places import place_name
from stage1_tokenizer.layers.precision import TYPES, Precision, at_precision
from stage1_tokenizer.measuring.sound_metrics import si_sdr
from stage1_tokenizer.measuring.sounds_shown import spectrograms
from stage1_tokenizer.tokenizer.model import Tokenizer

RESULTS = "reconstructions.json"


def reconstruct_sounds(
    places: Sequence[str], opened: Tokenizer, tokenizer: str, out: str, precision: Precision
) -> list[dict[str, Any]]:
    """Reconstruct sound files, or those below folders, whole, and write the folder `out`; the figures of each.

    OUT/NAME.flac is the reconstruction, OUT/NAME.png the spectrograms of original and reconstruction. UserError for a
    sound that can't be read; then nothing is written.
    """
    transform, rows = opened.transform, list[dict[str, Any]]()
    assert isinstance(transform, SoundConfig)
    encode = pkgutil.resolve_name("data.sounds.convert:encode")  # needs the extra `sound`
    files, fingerprint = [file for place in places for file in _sound_files(Path(place))], opened.fingerprint
    stems = [file.stem for file in files]
    opened.to(TYPES[precision])
    with new_folder(Path(out)) as folder, at_precision(precision):
        for number, file in enumerate(files, start=1):
            name = file.stem if stems.count(file.stem) == 1 else f"{file.stem}-{number}"
            x_BCT = read_sound(file, transform)
            row, y_BCT = measure_sound(opened, x_BCT)
            row |= {"file_bytes": file.stat().st_size, "smaller": file.stat().st_size / row["code_bytes"]}
            rows.append({"file": file.name, "sound": f"{name}.flac", **row})
            both = [to_int16(each_BCT)[0].numpy() for each_BCT in (x_BCT, y_BCT)]
            write_file(folder / f"{name}.flac", encode(both[1], transform.sample_rate, "flac"))
            Image.fromarray(spectrograms([both])).save(folder / f"{name}.png")
        about = {"tokenizer": place_name(tokenizer), "fingerprint": fingerprint, "precision": precision, "sounds": rows}
        (folder / RESULTS).write_text(json.dumps(about, indent=1) + "\n")
    return rows


def read_sound(file: Path, transform: SoundConfig) -> Tensor:
    """A whole file at the rate and with the channels of a transform, x_BCT with B = 1; UserError for no sound."""
    opened, part = (pkgutil.resolve_name(f"data.sounds.files:{name}") for name in ("SoundFile", "part"))
    try:
        with opened(file.read_bytes()) as sound:
            x_CT = part(sound, 0, sound.frames, transform.channels, transform.sample_rate)
    except (OSError, DamagedSampleError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{file} can't be used as a sound ({why}): leave it out, or convert it") from error
    return torch.from_numpy(x_CT.copy())[None].clamp(-1.0, 1.0)


def measure_sound(tokenizer: Tokenizer, x_BCT: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Figures of one sound of any length, and its reconstruction, of as many samples; zeros fill up the last frame."""
    transform, quantizer, samples = tokenizer.transform, tokenizer.config.quantizer, x_BCT.shape[-1]
    assert isinstance(transform, SoundConfig)
    step = tokenizer.config.stride[0] * math.lcm(*quantizer.strides)
    y_BCT, codes = tokenizer.reconstruct(F.pad(x_BCT, (0, -samples % step)))
    if codes is None:
        raise UserError("a Gaussian latent has no codes to count the bytes of: choose another tokenizer")
    y_BCT = to_float(to_int16(y_BCT[..., :samples]))
    strides, seconds = quantizer.strides or [1] * tokenizer.codebooks, samples / transform.sample_rate
    count = sum(codes.shape[-1] // stride for stride in strides)
    size = math.ceil(count * math.ceil(math.log2(tokenizer.codebook_size)) / 8)
    row = {"seconds": seconds, "codes": count, "code_bytes": size, "bits_per_second": 8 * size / seconds}
    ratio = float(si_sdr(y_BCT, x_BCT, transform.sample_rate))
    return row | ({} if math.isnan(ratio) else {"si_sdr": ratio}), y_BCT


def table_of_sounds(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as lines of text."""
    lines = [f"{'sound':32} {'seconds':>9} {'SI-SDR':>7} {'file':>10} {'codes':>9} {'kbit/s':>7} {'smaller':>8}"]
    for row in rows:
        ratio = f"{row['si_sdr']:7.2f}" if "si_sdr" in row else "      –"
        lines.append(
            f"{row['file'][-32:]:32} {row['seconds']:9.2f} {ratio} {row['file_bytes']:>8} B {row['code_bytes']:>7} B "
            f"{row['bits_per_second'] / 1000:7.2f} {row['smaller']:>7.1f}×"
        )
    return "\n".join(lines)


def _sound_files(place: Path) -> list[Path]:
    """The sounds below a folder; a file, or what isn't there, as it is. UserError for a folder without sounds."""
    if not place.is_dir():
        return [place]
    found = sorted(path for path in place.rglob("*") if path.suffix[1:].lower() in SOUNDS and path.is_file())
    if not found:
        raise UserError(f"files={place} is a folder without sounds: name another, or sound files")
    return found
