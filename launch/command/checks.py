"""The one way to check a setting."""

from __future__ import annotations


def check(key: str, value: float, good: bool, rule: str) -> None:
    """Raise ValueError (key, value, rule, way out) unless `good`."""
    if not good:
        raise ValueError(f"{key}={value} is out of range: set it to {rule}")
