"""What the state of a training needs on each device under each strategy: arithmetic, on no device."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def state_bytes(parameters: int, devices: int, *, averaged: bool = True) -> dict[str, float]:
    """Bytes of weights, gradients, AdamW's two means and averaged weights on each of n devices, by strategy.

    All keep float32 weights and cast in the products. With DDP gradients lie in its buckets; ZeRO (Rajbhandari et al.
    2020, figure 1) adds weights for computation to the optimizer's share. On one device it is DDP. Without `averaged`
    there are no averaged weights.
    """
    n, mean = devices, 4 if averaged else 0
    everything = 4 + 4 + 8 + mean
    own = 4 + 8 + mean  # the optimizer's weights, two means, averaged weights
    per_weight = {
        "DDP": everything,
        "FSDP2": everything / n,
        "ZeRO-1": 4 + 4 + own / n,
        "ZeRO-2": 4 + (4 + own) / n,
        "ZeRO-3": (4 + 4 + own) / n,
    }
    return {name: parameters * (each if n > 1 else everything) for name, each in per_weight.items()}


def memory_table(precision: str, of: Callable[[int], tuple[Mapping[str, float], float]]) -> list[str]:
    """Lines of a dry run: `of` gives the bytes of state by strategy, and of activations, on each of so many devices."""
    lines = [
        f"memory of each device, GiB, estimated: state + activations ({precision})",
        "devices".ljust(10) + "".join(name.rjust(16) for name in state_bytes(1, 1)),
    ]
    for devices in (1, 8, 64):
        state, active = of(devices)
        row = (f"{one / 2**30:.2f} + {active / 2**30:.2f}".rjust(16) for one in state.values())
        lines.append(str(devices).ljust(10) + "".join(row))
    return lines
