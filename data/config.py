"""What a run asks of its data: the `data:` block of both stages' recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data.media import Transform
from data.pictures.config import TransformConfig


@dataclass(frozen=True, kw_only=True)
class CodeDataConfig:
    """Which shards are read, in what order and how. Code shards need no more; pictures see DataConfig."""

    index: str = ""
    """Path or URL of the shard index (JSON) to train on. With `mixture`, the index that has weight 1."""
    held_out: str | None = None
    """Path or URL of the index of held-out samples; none: no evaluation."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Further indexes by weight, relative to `index`'s 1: {more/index.json: 0.5} draws two from `index` to one."""
    batch_size: int = 64
    """Samples in the global batch B, over all ranks together."""
    micro_batch: int | None = None
    """Most samples of one forward on a rank: its part of a larger batch is computed in several, for one update all the
    same. None: all at once."""
    lanes: int | None = None
    """Lanes R that the sample sequence is cut into (ranks | R | B). None: B for local shards, at most 64 for remote."""
    window: int | None = None
    """Neighbouring samples of a lane shuffled among each other. None: 4096 for local shards, 256 for remote ones."""
    threads: int = 2
    """Reading and decoding threads of each rank. The batches don't depend on it."""
    read_ahead: int = 3
    """Batches prepared ahead of the one in use; bounds the memory."""
    max_damaged: float = 0.01
    """Share of the samples met that may be damaged before the run stops and names the shards."""
    cache: str | None = None
    """Folder for copies of remote shards. None: no copies, remote shards are streamed."""
    cache_gigabytes: float = 50.0
    """Size limit of `cache`; the shards not used for longest go first."""
    connections: int = 8
    """Remote reads of each rank at a time."""
    retries: int = 8
    """Failed attempts in a row, at a remote read, before the run stops and names the shard."""
    retry_pause: float = 0.5
    """Seconds before the second attempt; they double with each further one, to 30 at most."""
    stall_seconds: float = 30.0
    """A remote read that brings nothing for so long is reported with its shard's name and tried again."""

    @property
    def kind(self) -> str:
        """Kind of the samples, as in `data.media.KINDS`."""
        return "codes"

    @property
    def decoding(self) -> dict[str, Any]:
        """Settings of the kind's decoder."""
        return {}

    def __post_init__(self) -> None:
        """Raise ValueError for what can be seen to be wrong without the shards."""
        for name, least in (("batch_size", 1), ("threads", 1), ("read_ahead", 1), ("retries", 1), ("connections", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name}={getattr(self, name)} is less than {least}: set it to {least} or more")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"data.micro_batch={self.micro_batch} is less than 1: set it to 1 or more, or to null")
        if self.window is not None and self.window < 1:
            raise ValueError(f"data.window={self.window} is less than 1: set 1 for no shuffle inside a lane, or more")
        if self.lanes is not None and (self.lanes < 1 or self.batch_size % self.lanes):
            raise ValueError(
                f"data.lanes={self.lanes} does not divide data.batch_size={self.batch_size}: "
                f"set data.lanes to one of {_divisors(self.batch_size)}"
            )
        if not 0 <= self.max_damaged <= 1:
            raise ValueError(f"data.max_damaged={self.max_damaged} is not a share: set it between 0 and 1")
        for name in ("stall_seconds", "cache_gigabytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"data.{name}={getattr(self, name)} is not above 0: set it above 0")
        if self.retry_pause < 0:
            raise ValueError(f"data.retry_pause={self.retry_pause} is negative: set 0 or more seconds")
        for index, weight in self.mixture.items():
            if not weight > 0:
                raise ValueError(f"data.mixture[{index}]={weight} is not above 0: leave the index out, or raise it")


@dataclass(frozen=True, kw_only=True)
class DataConfig(CodeDataConfig):
    """Pictures: which shards, in what order, and how each becomes pixels."""

    transform: Transform = field(default_factory=TransformConfig)
    """Size, channels, crop and augmentation; it travels with the released tokenizer."""
    max_pixels: int = 80_000_000
    """A picture with more pixels than this is refused before it is decoded, and counted as damaged."""

    @property
    def kind(self) -> str:
        """Kind of the samples, as in `data.media.KINDS`."""
        return self.transform.kind

    @property
    def decoding(self) -> dict[str, Any]:
        """Settings of the kind's decoder."""
        return {"transform": self.transform, "max_pixels": self.max_pixels}

    def __post_init__(self) -> None:
        """Raise ValueError for what can be seen to be wrong without the shards."""
        super().__post_init__()
        if not 1 <= self.max_pixels <= 178_956_970:
            raise ValueError(
                f"data.max_pixels={self.max_pixels} is not in 1..178956970 (PIL's own limit): set one of them"
            )


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
