"""What packing stores of a text."""

from typing import Any

import numpy as np

from data.shards.sample import DamagedSampleError
from data.shards.text import decode_text


def convert(encoded: bytes | None, array: np.ndarray | None, config: Any) -> tuple[str, bytes]:
    """A text in UTF-8, as a `txt` member. DamagedSampleError for an empty one."""
    text = decode_text(encoded or b"")[0]
    if not text.strip():
        raise DamagedSampleError("an empty text")
    return "txt", text.encode()
