"""How a video is packed: kept as it is, or resized, timed anew and encoded again.

Shapes: T frames, H W pixels, C channels.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
from PIL import Image

from data.pictures.config import FrameConfig
from data.pictures.convert import ConvertConfig, resized
from data.shards.sample import DamagedSampleError
from data.videos.animated import every_frame
from data.videos.choice import shown_at
from data.videos.colours import to_sdr
from data.videos.config import VideoConvertConfig
from data.videos.files import extension_of, open_video
from data.videos.film import av
from data.videos.video import VideoFile

_TICKS = 90_000
"""Parts of a second that times are rounded to in mp4."""
_SHOWN, _GOP = 0.1, 16
_RGB = FrameConfig()


def convert(encoded: bytes | None, array: np.ndarray | None, config: VideoConvertConfig) -> tuple[str, bytes]:
    """Extension and contents of the member that holds a video, given encoded or as uint8 frames (T, H, W, 1 or 3).

    DamagedSampleError where it is left out.
    """
    if encoded is None:
        assert array is not None, "a sample has bytes or an array"
        _must_fit(len(array), config)
        form: Literal["mp4", "webp"] = "webp" if config.format == "keep" else config.format
        seconds = [1 / config.frame_rate if config.frame_rate else _SHOWN] * len(array)
        return form, encode(_prepared(array, config, form), seconds, form, quality=config.quality, gop=config.gop)
    if config == VideoConvertConfig(check="none"):
        return extension_of(encoded), encoded
    with open_video(encoded, config.max_pixels) as file:
        _must_fit(file.frames, config)
        if config.keeps_bytes:
            if config.check == "header":
                file.check_end()
            elif config.check == "decode":
                check_all(file)
            return extension_of(encoded), encoded
        form = "mp4" if config.format == "keep" else config.format
        numbers, times = list(range(file.frames)), file.times
        seconds = np.diff(times).tolist()
        if config.frame_rate is not None:
            numbers = shown_at(times, 0, max(1, round(times[-1] * config.frame_rate)), config.frame_rate)
            seconds = [1 / config.frame_rate] * len(numbers)
        frames = _prepared(_read(file, numbers), config, form)
        return form, encode(frames, seconds, form, quality=config.quality, gop=config.gop)


def _must_fit(frames: int, config: VideoConvertConfig) -> None:
    if frames < config.least_frames:
        raise DamagedSampleError(f"{frames} frames are less than video.least_frames={config.least_frames}")


def _read(file: VideoFile, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """The frames of these ascending numbers, of which some may be equal."""
    distinct = sorted(set(numbers))
    for number, frame_HWC in zip(distinct, file.read(distinct, _RGB), strict=True):
        if file.hdr:
            to_sdr(frame_HWC, file.hdr)
        for _ in range(numbers.count(number)):
            yield frame_HWC


def _prepared(frames: Iterable[np.ndarray], config: VideoConvertConfig, form: str) -> Iterator[np.ndarray]:
    """The frames in the size that the settings say; of mp4 with even sides."""
    resize = ConvertConfig(size=config.side, fit="shorter")
    for frame_HWC in frames:
        if config.side is not None:
            frame_HWC = np.asarray(resized(Image.fromarray(np.squeeze(frame_HWC)), resize))
        height, width = (side - side % 2 if form == "mp4" and side > 1 else side for side in frame_HWC.shape[:2])
        yield frame_HWC[:height, :width]


def encode(
    frames: Iterable[np.ndarray],
    seconds: Sequence[float],
    form: Literal["mp4", "webp"],
    *,
    quality: int = 18,
    gop: int | None = None,
) -> bytes:
    """Frames, each uint8 (H, W), (H, W, 1) or (H, W, 3) and shown for so many seconds, as one video.

    webp has no loss, and equal neighbours stay frames of their own. mp4 is H.264 of constant rate factor `quality`,
    whose sides have to be even, with a key frame every `gop` (16) frames; it needs the extra `video`.
    """
    plain = (frame[:, :, 0] if frame.ndim == 3 and frame.shape[2] == 1 else frame for frame in frames)
    if form == "mp4":
        return _mp4(plain, seconds, quality, gop or _GOP)
    pictures = [Image.fromarray(frame) for frame in plain]
    edges = np.rint(np.cumsum([0.0, *seconds]) * 1000).astype(int)
    return every_frame(pictures, np.diff(edges).tolist())


def _mp4(frames: Iterator[np.ndarray], seconds: Sequence[float], quality: int, gop: int) -> bytes:
    buffer, stream = io.BytesIO(), None
    times = np.rint(np.cumsum([0.0, *seconds]) * _TICKS).astype(np.int64).tolist()
    rate = Fraction(len(seconds) * _TICKS, max(1, times[-1])).limit_denominator(1001)
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        for frame_HWC, start, end in zip(frames, times, times[1:], strict=False):
            if stream is None:
                options = {"crf": str(quality), "g": str(gop), "threads": "1", "flags": "+bitexact"}
                stream = container.add_stream("libx264", rate=rate, options=options)
                stream.height, stream.width = frame_HWC.shape[:2]
                stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, _TICKS)
            frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24" if frame_HWC.ndim == 3 else "gray")
            frame = frame.reformat(format=stream.pix_fmt)  # what the encoder's own conversion gives differs at times
            frame.pts, frame.duration, frame.time_base = start, end - start, Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        assert stream is not None, "a video has frames"
        container.mux(stream.encode(None))
    return buffer.getvalue()


def check_all(file: VideoFile) -> None:
    """DamagedSampleError unless all frames can be decoded, up to the end that the header states."""
    file.check_end()
    for _ in file.read(range(file.frames), _RGB):
        pass
