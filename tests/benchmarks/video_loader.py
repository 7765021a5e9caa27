"""Clips a second and core: 17 frames at a random place of H.264 videos, by this loader and by others, in one run.

    python tests/benchmarks/video_loader.py [--clips 120] [--rounds 3] [--side 128] [--size 128] [--gop 12]

All read the same clips from memory by one thread; the rounds of all alternate. Rates are of processor time. `bare PyAV`
opens, seeks, decodes and converts to RGB by `frame.to_ndarray`, without listing frames, cropping or batches; `PyAV,
tuned` keeps the tables of the conversion, as this loader does. `torchcodec` (which has to find FFmpeg, and the torch
that it is built for) and `decord` take part where they are installed. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from data.pictures.geometry import Draw
from data.shards.index import ShardIndex
from data.shards.sample import Sample
from data.videos.clips import ClipDraw, fill_clip
from data.videos.config import VideoConfig
from data.videos.convert import encode
from data.videos.decoder import VideoDecoder

FRAMES, RATE, SECONDS = 17, 25, 10
Reader = Callable[[bytes, int, np.ndarray], None]


def videos(count: int, side: int, gop: int) -> list[bytes]:
    """Videos of 10 s in which a smooth texture moves, with noise."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = torch.from_numpy(rng.integers(0, 256, (1, 3, side // 8, side // 8)).astype(np.float32))
        texture = torch.nn.functional.interpolate(coarse, (2 * side, 2 * side), mode="bicubic").clamp(0, 255)[0]
        whole_HWC = texture.permute(1, 2, 0).numpy()

        def frame(t: int, whole_HWC: np.ndarray = whole_HWC, rng: Any = rng) -> np.ndarray:
            at = t * side // (RATE * SECONDS)
            noise = rng.normal(0, 3, (side, side, 1))
            return np.clip(whole_HWC[at : at + side, 2 * at % side :][:, :side] + noise, 0, 255).astype(np.uint8)

        made.append(encode((frame(t) for t in range(RATE * SECONDS)), [1 / RATE] * (RATE * SECONDS), "mp4", gop=gop))
    return made


def bare(contents: bytes, start: int, out_CTHW: np.ndarray, tuned: bool = False) -> None:
    """What one would write by hand."""
    size, colours = out_CTHW.shape[-1], av.video.reformatter.VideoReformatter()
    with av.open(io.BytesIO(contents)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        first = round(start / RATE / stream.time_base)
        container.seek(first, stream=stream)
        found = 0
        for frame in container.decode(stream):
            if frame.pts < first:
                continue
            resized = {} if frame.width == size else {"width": size, "height": size, "interpolation": "AREA"}
            if tuned:
                frame, resized = colours.reformat(frame, format="rgb24", threads=1, **resized), {}
            out_CTHW[:, found] = frame.to_ndarray(format="rgb24", **resized).transpose(2, 0, 1)
            found += 1
            if found == FRAMES:
                return


def ours(config: VideoConfig) -> Reader:
    """The clip whose start is given, with all that the loader does to a frame."""
    starts = RATE * SECONDS - FRAMES + 1

    def read(contents: bytes, start: int, out_CTHW: np.ndarray) -> None:
        random = ClipDraw(Draw(0.9, 0.5, 0.5, 0.5), (start + 0.5) / starts)
        fill_clip(contents, config, out_CTHW, max_pixels=10**8, random=random)

    return read


def whole_loader(config: VideoConfig) -> Reader:
    """A sample of a shard as training reads it; its own draws choose the place."""
    decoder = VideoDecoder(ShardIndex([], kind="videos"), 0, transform=config, max_pixels=10**8)

    def read(contents: bytes, start: int, out_CTHW: np.ndarray) -> None:
        sample = Sample(f"k{start}", {"mp4": memoryview(contents)})
        decoder.fill(sample, 0, torch.from_numpy(out_CTHW)[None], 0)

    return read


def torchcodec_reader(mode: str) -> Reader:
    """ImportError or RuntimeError where it isn't installed or finds no FFmpeg."""
    from torchcodec.decoders import VideoDecoder as Theirs

    def read(contents: bytes, start: int, out_CTHW: np.ndarray) -> None:
        decoder = Theirs(contents, num_ffmpeg_threads=1, seek_mode=mode)
        clip_TCHW = decoder.get_frames_in_range(start, start + FRAMES).data
        if clip_TCHW.shape[-1] != out_CTHW.shape[-1]:
            clip_TCHW = torch.nn.functional.interpolate(clip_TCHW, out_CTHW.shape[-2:], mode="bilinear", antialias=True)
        np.copyto(out_CTHW, clip_TCHW.permute(1, 0, 2, 3).numpy())

    return read


def decord_reader() -> Reader:
    """ImportError where it isn't installed."""
    import decord

    def read(contents: bytes, start: int, out_CTHW: np.ndarray) -> None:
        size = out_CTHW.shape[-1]
        reader = decord.VideoReader(io.BytesIO(contents), width=size, height=size, num_threads=1)
        out_CTHW[:] = reader.get_batch(range(start, start + FRAMES)).asnumpy().transpose(3, 0, 1, 2)

    return read


def main() -> None:
    """Measure, print a table, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("clips", 120), ("rounds", 3), ("side", 128), ("size", 128), ("gop", 12), ("videos", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = VideoConfig(size=options.size, frames=FRAMES, resize="area")
    readers: dict[str, Reader] = {"bare PyAV": bare, "PyAV, tuned": partial(bare, tuned=True)}
    readers |= {"clips": ours(config), "loader": whole_loader(config)}
    others = {f"torchcodec, {mode}": partial(torchcodec_reader, mode) for mode in ("exact", "approximate")}
    why = {}
    for name, make in {**others, "decord": decord_reader}.items():
        try:
            readers[name] = make()
        except (ImportError, RuntimeError, OSError) as error:
            why[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"[:120]
    contents = videos(options.videos, options.side, options.gop)
    out_CTHW = np.empty((3, FRAMES, options.size, options.size), np.uint8)
    rng, seconds = np.random.default_rng(1), dict.fromkeys(readers, 0.0)
    places = rng.integers(0, RATE * SECONDS - FRAMES + 1, options.clips).tolist()
    if options.side == options.size:  # then all but the loader, which draws its own places, have the same bytes
        expected = np.empty_like(out_CTHW)
        for i, start in enumerate(places[:8]):
            bare(contents[i % len(contents)], start, expected)
            ours(config)(contents[i % len(contents)], start, out_CTHW)
            assert np.array_equal(out_CTHW, expected), "another clip"
    for _ in range(options.rounds):
        for name, read in readers.items():
            began = time.process_time()
            for i, start in enumerate(places):
                read(contents[i % len(contents)], start, out_CTHW)
            seconds[name] += time.process_time() - began
    rates = {name: options.clips * options.rounds / one for name, one in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:26}{rate:8.1f} clips/s and core{rate / rates['bare PyAV']:8.2f} of bare PyAV")
    for name, reason in why.items():
        print(f"{name}: not measured ({reason})")
    about = {**vars(options), "frames": FRAMES, "bytes": round(float(np.mean([len(one) for one in contents])))}
    print(json.dumps({**about, "clips_per_core_second": {name: round(rate, 1) for name, rate in rates.items()}}))


if __name__ == "__main__":
    main()
