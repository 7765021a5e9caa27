"""The random numbers of one clip. No torch here."""

import hashlib
from collections.abc import Iterator
from itertools import count


def draws(seed: int, epoch: int, key: str) -> Iterator[float]:
    """Numbers in [0, 1) for sample `key` in `epoch`: a function of the three alone, on every rank and thread.

    Without an end: four from each of the hashes of (seed, epoch, key, 0), (…, 1), ….
    """
    for turn in count():
        digest = hashlib.blake2b(f"{seed}/{epoch}/{key}/{turn}".encode(), digest_size=32).digest()
        for at in range(0, 32, 8):
            yield (int.from_bytes(digest[at : at + 8], "little") >> 11) / 2**53
