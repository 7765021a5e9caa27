"""The memory that a command has freed stays with it, for what it allocates next."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Names of glibc's mallopt: freed bytes at the heap's end before they go back, and how many mappings of their own."""

MOST = 2**31 - 1


def keep_freed() -> None:
    """Keep freed memory, where the C library is glibc and no variable MALLOC_… says otherwise.

    By default glibc gives large tensors back to the system as soon as they are freed, and the system clears each page
    of the next ones: half of the time in which an encoder turns pictures of 256 pixels into codes on a CPU. Results
    don't change; tensors of many sizes may take up to a half more memory at the peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt(TRIM_THRESHOLD, MOST)
        mallopt(MMAP_MAX, 0)
