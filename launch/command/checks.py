"""The one way to check a setting."""

from __future__ import annotations

from collections.abc import Sequence


def check(key: str, value: object, good: bool, rule: str) -> None:
    """Raise ValueError (key, value, rule, way out) unless `good`."""
    if not good:
        raise ValueError(f"{key}={value} is out of range: set it to {rule}")


def at_least(least: float, config: object, *names: str, prefix: str = "") -> None:
    """Raise ValueError unless each of these settings is `least` or more; null passes."""
    for name in names:
        value = getattr(config, name)
        check(f"{prefix}{name}", value, value is None or value >= least, f"{least} or more")


SHOWN = 5
"""Shards named in an error before it says how many more there are."""


def named(items: Sequence[str]) -> str:
    """The first few of a list of names, and how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
