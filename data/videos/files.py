"""Video files of any format in memory, recognised by their first bytes, not by their extension."""

from data.shards.sample import DamagedSampleError, Sample, member_of
from data.shards.signature import LENGTH, VIDEOS, video_format
from data.videos.animated import Animation
from data.videos.film import DEMUXERS, Film
from data.videos.video import VideoFile


def video_member(sample: Sample) -> str:
    """The extension of the sample's video (`data.shards.sample.member_of`); DamagedSampleError without one."""
    return member_of(sample, VIDEOS, "video")


def extension_of(encoded: bytes | memoryview) -> str:
    """The extension that fits the first bytes, whatever the file is called. DamagedSampleError for no known video."""
    if not len(encoded):
        raise DamagedSampleError("no bytes")
    extension = video_format(encoded[:LENGTH])
    if extension is None or extension not in VIDEOS:
        what = f"{extension} videos can't be decoded" if extension else "not a video of a known format"
        raise DamagedSampleError(what)
    return extension


def open_video(data: bytes | memoryview, max_pixels: int) -> VideoFile:
    """An encoded video. DamagedSampleError for none, and for frames of more than `max_pixels`."""
    extension = extension_of(data)
    return Film(data, extension, max_pixels) if extension in DEMUXERS else Animation(data, extension, max_pixels)
