"""Simulate an order on a cluster: balance, open shards, bytes read twice, memory, and how well it shuffles.

    python -m data.simulate --shards 100000 --ranks 4096

Nothing is read: the shards are imagined, the order is the one that training uses.
"""

import json
from dataclasses import asdict, dataclass

from data.order.simulation import simulate, table
from launch.command.checks import at_least
from launch.command.cli import UserError, parse, run


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Imagine a set of shards and the ranks that read it, and measure the order."""

    shards: int = 1000
    """Shards in the set."""
    samples: int = 10_000
    """Samples in a shard, on average; they vary by a tenth."""
    sample_bytes: int = 100_000
    """Bytes of a sample, on average; shards vary by a quarter."""
    ranks: int = 8
    """Processes that train."""
    batch_size: int | None = None
    """Global batch size; none: 16 for each rank."""
    lanes: int | None = None
    """Lanes of the streamed order; none: one for each rank."""
    window: int = 256
    """Window of the streamed order."""
    seed: int = 0
    """Seed of the order and of the imagined sizes."""
    json: bool = False
    """Print one JSON object instead of the table."""

    def __post_init__(self) -> None:
        at_least(1, self, "shards", "samples", "sample_bytes", "ranks", "batch_size", "lanes", "window")
        at_least(0, self, "seed")
        if self.batch_size is not None and self.batch_size % self.ranks:
            raise ValueError(
                f"batch_size={self.batch_size} is not a multiple of ranks={self.ranks}: change one of them"
            )


def main() -> int:
    """Read the options, simulate, print."""
    config = parse(SimulateConfig, prog="python -m data.simulate")
    values = asdict(config)
    as_json = values.pop("json")
    try:
        figures = simulate(**values)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(json.dumps(figures) if as_json else table(figures))
    return 0


if __name__ == "__main__":
    run(main, computes=False)
