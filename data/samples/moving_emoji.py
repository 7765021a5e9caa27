"""The sample set `moving_emoji`: animated Fluent emoji, as animated WebP of 17 frames."""

import io
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from data.samples.packages import EMOJI_DATA, Package, categories, contents
from data.samples.sample_set import SampleSet
from data.videos.animated import Animation

FLUENT_ANIMATED = Package(
    "@lobehub/fluent-emoji-anim-1", "1.0.0", "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"
)
FRAMES, RATE, SIDE = 17, 6.0, 64
"""Frames of a clip, how many are shown in a second, and their side in pixels."""
_TONES = re.compile("-1f3f[b-f]")
_MOST = 10**7


def moving_emoji(folder: Path) -> SampleSet:
    """Animated emoji on white, 64×64: the frames of their first 2.8 s at 6 Hz, from the beginning again at their end.

    The class is the category of their code points, the caption their name. Left out: still ones, those whose name is no
    code point sequence of the table, and all but the first of those that differ in the tone of the skin.
    """
    files, table = contents(FLUENT_ANIMATED, folder), contents(EMOJI_DATA, folder)
    entries = json.loads(table["package/emoji.json"])
    category, called = categories(entries), names(entries)
    chosen: dict[str, bytes] = {}
    seen: set[str] = set()
    for path in sorted(name for name in files if name.endswith(".webp")):
        key = Path(path).stem
        plain = _TONES.sub("", key)
        if key in category and plain not in seen and Animation(files[path], "webp", _MOST).frames >= FRAMES:
            seen.add(plain)
            chosen[key] = files[path]
    keys = list(chosen)
    classes = sorted({category[key] for key in keys})
    licence = (
        f"The animations are those of the npm package {FLUENT_ANIMATED.name} {FLUENT_ANIMATED.version}, which its\n"
        'package.json and README place under the MIT licence ("Copyright © 2023 LobeHub"); they are the Fluent Emoji\n'
        "of Microsoft Corporation (also MIT). They were made smaller and shorter, on white. The class and caption of\n"
        f"each are its category and name in the npm package {EMOJI_DATA.name} {EMOJI_DATA.version}, whose licence,\n"
        "the MIT licence, follows.\n\n" + table["package/LICENSE"].decode()
    )
    return SampleSet(
        name="moving_emoji",
        classes=classes,
        source=f"npm {FLUENT_ANIMATED.name} {FLUENT_ANIMATED.version}, names and categories of npm "
        f"{EMOJI_DATA.name} {EMOJI_DATA.version}",
        licence_text=licence,
        keys=keys,
        labels=np.array([classes.index(category[key]) for key in keys]),
        extension="webp",
        encode=lambda i: shortened(chosen[keys[i]]),
        train_shards=2,
        kind="videos",
        captions=[called[key] for key in keys],
        meta={"frame_rate": RATE},
    )


def names(table: list[dict]) -> dict[str, str]:
    """Code point sequence (lower case, joined by dashes) → name, of those with skin tones the name without."""
    found = {}
    for entry in table:
        forms = [entry, *(entry.get("skin_variations") or {}).values()]
        for code in (form.get(kind) for form in forms for kind in ("unified", "non_qualified")):
            if code:
                found[code.lower()] = " ".join((entry.get("name") or entry["short_name"]).lower().split())
    return found


def shortened(encoded: bytes) -> bytes:
    """FRAMES frames of an animation at RATE, on white, as an animated WebP; one that is shorter begins again."""
    with Animation(encoded, "webp", _MOST) as file:
        times = file.times
        at_T = np.arange(FRAMES) / RATE % times[-1]
        numbers = (np.searchsorted(times, at_T + 1e-6, side="right") - 1).tolist()
    pictures: list[Image.Image] = []
    with Image.open(io.BytesIO(encoded)) as opened:
        for number in numbers:
            opened.seek(number)
            frame = opened.convert("RGBA")
            square = Image.new("RGBA", (max(frame.size),) * 2, "white")
            square.alpha_composite(frame, tuple((square.width - side) // 2 for side in frame.size))
            pictures.append(square.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    edges = np.rint(np.arange(FRAMES + 1) * 1000 / RATE).astype(int)
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=np.diff(edges).tolist(),
        loop=0,
        quality=80,
        method=6,
    )
    return buffer.getvalue()
