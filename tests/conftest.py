"""What all tests share: no network, few threads, no interference of a launcher's variables."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from launch.command import interrupts

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_MODE"):
    os.environ[name] = "offline" if name == "WANDB_MODE" else "1"
for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "TORCHELASTIC_"))]:
    del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip themselves without one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A command that runs in the tests' own process handles Ctrl-C from then on: put back what was before."""
    numbers = (signal.SIGINT, interrupts.HANDED_ON)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    interrupts._presses.__init__()  # type: ignore[misc]
    for number, handler in before.items():
        signal.signal(number, handler)
