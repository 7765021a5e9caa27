"""Which format a picture, a sound or a video has, from its first bytes alone. No libraries here.

Extensions may say anything. It is beside the shards as an index is made of archives whose members may have any name.
"""

LENGTH = 64
"""First bytes that are enough to tell a format."""
DECODED = ("jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "pgm", "pbm", "jp2", "avif")
"""The formats that are read, by their usual extension."""
PICTURES = (
    *("jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp", "webp", "avif", "jp2", "j2k"),
    *("png", "apng", "tif", "tiff", "bmp", "ppm", "pgm", "pbm", "gif", "img"),
)
"""Last parts of the extensions of members that hold a picture. Where a sample has several, the first listed here is the
picture: photographs are stored with loss, masks and maps without."""

SOUNDS = (
    "wav", "flac", "opus", "ogg", "oga", "mp3", "mp2", "aif", "aiff", "aifc", "au", "snd", "caf", "w64", "rf64", "sph",
)  # fmt: skip
"""Last parts of the extensions of members that hold a sound. Where a sample has several, the first listed here is the
sound: what is stored without loss before what isn't."""
VIDEOS = ("mp4", "m4v", "mov", "webm", "mkv", "avi", "webp", "gif")
"""Last parts of the extensions of members that hold a video. Where a sample has several, the first listed here is the
video: films before animations, which may be their previews."""

TEXTS = ("txt", "text", "md", "json")
"""Last parts of the extensions of members that hold a text; of a `json` its "text" does."""

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"II+\0", "tif"),
    (b"MM\0+", "tif"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"\xff\x0a", "jxl"),
    (b"8BPS\0", "psd"),
)
_SOUND_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"fLaC", "flac"),
    (b"ID3", "mp3"),
    (b".snd", "au"),
    (b"caff", "caf"),
    (b"riff.\x91\xcf\x11", "w64"),
    (b"RF64", "rf64"),
    (b"NIST_1A", "sph"),
    (b"MThd", "mid"),
    (b"wvpk", "wv"),
    (b"MAC ", "ape"),
    (b"#!AMR", "amr"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma"),
    (b"\x1aE\xdf\xa3", "webm"),
)
_VIDEO_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"FLV\x01", "flv"),
    (b"\0\0\x01\xba", "mpg"),
    (b"\0\0\x01\xb3", "mpg"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wmv"),
    (b".RMF", "rm"),
    (b"OggS", "ogv"),
)
_MOVIE_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
"""First atoms of QuickTime files that are older than their `ftyp`."""
_NETPBM = {b"P1": "pbm", b"P4": "pbm", b"P2": "pgm", b"P5": "pgm", b"P3": "ppm", b"P6": "ppm"}
_BITMAP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_AVIF, _HEIC = (b"avif", b"avis"), (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def picture_format(first_bytes: bytes | memoryview) -> str | None:
    """The usual extension of a format (`jpg`, `heic`, …), from a file's first `LENGTH` bytes; None for no picture.

    Formats outside `DECODED` are known by name, so that a message can name them.
    """
    head = bytes(first_bytes[:LENGTH])
    for beginning, extension in _BEGINNINGS:
        if head.startswith(beginning):
            return extension
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        return _iso_format(head)
    if head[:2] in _NETPBM and head[2:3] in (b" ", b"\t", b"\n", b"\r", b"#"):
        return _NETPBM[head[:2]]
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS:
        return "bmp"
    return None


def _iso_format(head: bytes) -> str | None:
    """AVIF or HEIC by the brands of an ISO media file; None for a film."""
    length = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, length - 3, 4))]
    if any(brand in _AVIF for brand in brands):
        return "avif"
    return "heic" if any(brand in _HEIC for brand in brands) else None


def sound_format(first_bytes: bytes | memoryview) -> str | None:
    """The usual extension of a sound's format (`wav`, `flac`, `m4a`, …), from a file's first `LENGTH` bytes; else None.

    Formats outside `SOUNDS` are known by name, so that a message can name them.
    """
    head = bytes(first_bytes[:LENGTH])
    for beginning, extension in _SOUND_BEGINNINGS:
        if head.startswith(beginning):
            return extension
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aif"
    if head[:4] == b"OggS":
        return "opus" if head[28:36] == b"OpusHead" else "ogg"
    if head[4:8] == b"ftyp":
        return "m4a" if head[8:11] in (b"M4A", b"M4B", b"mp4", b"iso") else None
    return _mpeg_format(head)


def _mpeg_format(head: bytes) -> str | None:
    """MPEG audio by the sync word of its first frame; AAC by that of its."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    layer, version, rate, sampling = head[1] >> 1 & 3, head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if head[1] & 0xF6 == 0xF0:
        return "aac"
    return "mp3" if layer and version != 1 and rate not in (0, 15) and sampling != 3 else None


def video_format(first_bytes: bytes | memoryview) -> str | None:
    """The usual extension of a video's format (`mp4`, `webm`, `gif`, …), from a file's first `LENGTH` bytes; else None.

    Formats outside `VIDEOS` are known by name, so that a message can name them. A webp or gif may have one frame.
    """
    head = bytes(first_bytes[:LENGTH])
    for beginning, extension in _VIDEO_BEGINNINGS:
        if head.startswith(beginning):
            return extension
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(head[8:12])
    if head[:4] == b"\x1aE\xdf\xa3":
        return "webm" if b"webm" in head else "mkv"
    if head[4:8] == b"ftyp":
        return _iso_format(head) or ("mov" if head[8:12] == b"qt  " else "mp4")
    if head[4:8] in _MOVIE_ATOMS:
        return "mov"
    return None
