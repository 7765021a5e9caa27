"""The `data:` block of both stages' recipes."""

from dataclasses import dataclass, field, replace
from typing import Any

from data.media import Transform
from data.order.sample_order import divisors
from data.pictures.config import TransformConfig
from launch.command.checks import at_least, check


@dataclass(frozen=True, kw_only=True)
class CodeDataConfig:
    """Which shards are read, in what order and how. Complete for code shards; for other samples see DataConfig."""

    index: str = ""
    """Path or URL of the shard index (JSON) to train on. With `mixture`, the index that has weight 1."""
    held_out: str | None = None
    """Path or URL of the index of held-out samples; none: no evaluation."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Further indexes by weight, relative to `index`'s 1: {more/index.json: 0.5} draws two from `index` to one. Indexes
    of pictures beside one of videos make batches of their own, of clips of one frame without labels."""
    batch_size: int = 64
    """Samples in the global batch B, over all ranks together."""
    micro_batch: int | None = None
    """Maximum number of samples in one forward pass of a rank. A larger share of the batch takes several passes and
    still makes one update. None: one pass."""
    lanes: int | None = None
    """Lanes R that the sample sequence is cut into (ranks | R | B). None: B for local shards, at most 64 for remote."""
    window: int | None = None
    """Neighbouring samples of a lane that are shuffled together. None: 4096 for local shards, 256 for remote ones."""
    threads: int | None = None
    """Reading and decoding threads of each rank; null: its share of the cores, at most 8. The batches stay."""
    read_ahead: int = 3
    """Batches prepared ahead of the one in use; limits the memory."""
    max_damaged: float = 0.01
    """Share of the samples read so far that may be damaged before the run stops and names the shards."""
    cache: str | None = None
    """Folder for copies of remote shards. None: remote shards are streamed."""
    cache_gigabytes: float = 50.0
    """Size limit of `cache`; the least recently used shards are removed first."""
    connections: int = 8
    """Parallel remote reads of each rank."""
    retries: int = 8
    """Consecutive failures of a remote read before the run stops and names the shard."""
    retry_pause: float = 0.5
    """Seconds before the first retry; doubled for each further one, up to 30."""
    stall_seconds: float = 30.0
    """Seconds without data after which a remote read is reported, with its shard's name, and retried."""

    @property
    def kind(self) -> str:
        """Kind of the samples, as in `data.media.KINDS`."""
        return "codes"

    @property
    def decoding(self) -> dict[int, dict[str, Any]]:
        """Settings of the kind's decoder, by the first step that has them."""
        return {0: {}}

    def __post_init__(self) -> None:
        sizes = ("batch_size", "threads", "read_ahead", "retries", "connections", "micro_batch", "window")
        at_least(1, self, *sizes, prefix="data.")
        if self.lanes is not None and (self.lanes < 1 or self.batch_size % self.lanes):
            raise ValueError(
                f"data.lanes={self.lanes} does not divide data.batch_size={self.batch_size}: "
                f"set data.lanes to one of {', '.join(map(str, divisors(self.batch_size)))}"
            )
        check("data.max_damaged", self.max_damaged, 0 <= self.max_damaged <= 1, "a share between 0 and 1")
        for name in ("stall_seconds", "cache_gigabytes"):
            check(f"data.{name}", getattr(self, name), getattr(self, name) > 0, "a number above 0")
        check("data.retry_pause", self.retry_pause, self.retry_pause >= 0, "0 or more seconds")
        for index, weight in self.mixture.items():
            check(f"data.mixture[{index}]", weight, weight > 0, "a number above 0, or leave the index out")


@dataclass(frozen=True, kw_only=True)
class TextDataConfig(CodeDataConfig):
    """Which shards of texts are read, in what order and how."""

    @property
    def kind(self) -> str:
        """Kind of the samples, as in `data.media.KINDS`."""
        return "texts"


@dataclass(frozen=True, kw_only=True)
class DocumentDataConfig(CodeDataConfig):
    """Which shards of documents are read, in what order and how."""

    @property
    def kind(self) -> str:
        """Kind of the samples, as in `data.media.KINDS`."""
        return "documents"


@dataclass(frozen=True, kw_only=True)
class DataConfig(CodeDataConfig):
    """Which shards are read, in what order, and how each sample is prepared."""

    transform: Transform = field(default_factory=TransformConfig)
    """How samples are prepared: size, crop, augmentation. Travels with the released tokenizer."""
    codes: str | None = None
    """Path of an index of codes of `index`'s samples, from stage2_prior.redraw or .encode: the decoder is trained to
    rebuild the samples from these, not from codes of its own, and nothing random is done to the samples."""
    early_steps: int = 0
    """Progressive resolution: in the first so many steps, pictures have sides of `early_size` instead of
    transform.size, and steps take a fraction of the time. Held-out pictures always have transform.size."""
    early_size: int | None = None
    """With early_steps, pixels of each side."""
    max_pixels: int = 80_000_000
    """A picture with more pixels than this is refused before it is decoded, and counted as damaged."""

    @property
    def kind(self) -> str:
        """Kind of the samples, as in `data.media.KINDS`."""
        return self.transform.kind

    @property
    def decoding(self) -> dict[int, dict[str, Any]]:
        """Settings of the kind's decoder, by the first step that has them."""
        late = {"transform": self.transform, "max_pixels": self.max_pixels}
        if not self.early_steps:
            return {0: late}
        assert isinstance(self.transform, TransformConfig) and self.early_size is not None
        return {0: late | {"transform": replace(self.transform, size=self.early_size)}, self.early_steps: late}

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "early_steps", prefix="data.")
        if self.early_steps:
            self._check_early()
        if self.codes is not None and self.mixture:
            raise ValueError(f"data.codes={self.codes} is not supported with data.mixture: remove one of them")
        fits = 1 <= self.max_pixels <= 178_956_970
        check("data.max_pixels", self.max_pixels, fits, "a number from 1 to 178956970, PIL's own limit")

    def _check_early(self) -> None:
        early = f"data.early_steps={self.early_steps}"
        if self.kind != "pictures":
            raise ValueError(f"{early} is for pictures, not for {self.kind}: set it to 0")
        if self.codes is not None:
            raise ValueError(f"{early} is not supported with data.codes, whose grids have one size: set it to 0")
        size, full = self.early_size, self.transform.sizes[-1]
        if size is None or not 1 <= size < full:
            raise ValueError(f"{early} needs data.early_size, a size below data.transform.size={full}, not {size}")
