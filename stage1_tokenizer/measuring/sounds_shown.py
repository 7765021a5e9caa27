"""Originals and their reconstructions as FLAC files, and their spectrograms as one picture.

Legend: B batch, C channels, T samples.
"""

import pkgutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.reading.stream import every_sample
from data.shards.index import ShardIndex
from data.sounds.batches import to_float, to_int16
from data.sounds.config import SoundConfig
from launch.files.atomic import write_file, writing
from launch.files.outputs import output
from stage1_tokenizer.tokenizer.model import Tokenizer

SPECTROGRAM = (192, 96)
"""Pixels of a spectrogram, across and down."""
_GAP = 4


def save_sounds(
    folder: Path | None,
    picture: Path,
    tokenizer: Tokenizer,
    source: ShardIndex | str,
    count: int,
    books: tuple[int, ...] = (),
) -> None:
    """Write `count` clips of an index, evenly spaced, and the reconstructions of each.

    Into `folder`, if there is one: NN-original.flac, NN-books-G.flac for each of `books` (the first G codebooks), and
    NN.flac with all of them, each with its spectrogram as a PNG; to `picture`, a PNG, their spectrograms in rows of the
    same order.
    """
    transform = tokenizer.transform
    assert isinstance(transform, SoundConfig), "trained and released tokenizers have a transform"
    device = next(tokenizer.parameters()).device
    encode = pkgutil.resolve_name("data.sounds.convert:encode")  # needs the extra `sound`
    if folder is not None:
        with output(folder):
            folder.mkdir(parents=True, exist_ok=True)
    rows: list[list[np.ndarray]] = []
    for batch in every_sample(source, transform, batch_size=min(count, 16), limit=count):
        x_BCT = to_float(batch.samples_BCT.to(device))
        versions = {"-original": x_BCT, **_reconstructions(tokenizer, x_BCT, books)}
        for row, length in enumerate(batch.lengths_B.tolist()):
            shown = []
            for name, one_BCT in versions.items():
                samples_CT = to_int16(one_BCT[row, :, :length]).cpu().numpy()
                if folder is not None:
                    flac = encode(samples_CT, transform.sample_rate, "flac")
                    write_file(folder / f"{len(rows):02d}{name}.flac", flac)
                    with writing(folder / f"{len(rows):02d}{name}.png") as file:
                        Image.fromarray(spectrograms([[samples_CT]])).save(file, format="PNG")
                shown.append(samples_CT)
            rows.append(shown)
    with writing(picture) as file:
        Image.fromarray(spectrograms(rows)).save(file, format="PNG")


@torch.no_grad()
def _reconstructions(tokenizer: Tokenizer, x_BCT: Tensor, books: tuple[int, ...]) -> dict[str, Tensor]:
    """With the first books, and with all."""
    y_BCT, codes = tokenizer.reconstruct(x_BCT)
    made = {f"-books-{count}": tokenizer.decode(codes[:, :count]) for count in books if codes is not None}
    return {**made, "": y_BCT}


def spectrograms(rows: list[list[np.ndarray]]) -> np.ndarray:
    """One RGB picture of the spectrograms of rows of sounds, (C, T) int16."""
    draw = pkgutil.resolve_name("data.sounds.inspection:spectrogram")
    width, height = SPECTROGRAM
    columns = max((len(row) for row in rows), default=1)
    size = (max(len(rows), 1) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3)
    page_HWC = np.full(size, 255, np.uint8)
    for down, row in enumerate(rows):
        for across, samples_CT in enumerate(row):
            top, left = down * (height + _GAP), across * (width + _GAP)
            mono_T = samples_CT.mean(0).astype(np.float32) / 32768
            page_HWC[top : top + height, left : left + width] = np.asarray(draw(mono_T, width, height).convert("RGB"))
    return page_HWC
