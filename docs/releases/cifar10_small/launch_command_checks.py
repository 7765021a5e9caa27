# Made from launch.command.checks of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations




def check(key: str, value: float, good: bool, rule: str) -> None:
    """Raise ValueError (key, value, rule, way out) unless `good`."""
    if not good:
        raise ValueError(f"{key}={value} is out of range: set it to {rule}")


def at_least(least: float, config: object, *names: str, prefix: str = "") -> None:
    """Raise ValueError unless each of these settings is `least` or more; null passes."""
    for name in names:
        value = getattr(config, name)
        check(f"{prefix}{name}", value, value is None or value >= least, f"{least} or more")
