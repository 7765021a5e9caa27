"""Names of weights without the parts that wrappers put into them.

torch.compile, DDP, DeepSpeed, FSDP and activation checkpointing add a level each, in any nesting:
`_orig_mod.module.encoder.weight`, `encoder._orig_mod.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from launch.command.cli import UserError

Weight = TypeVar("Weight")

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module"})
"""What wrappers call the module inside; no network of ours has a part of that name."""

PATTERN = rf"(?<![^.])(?:(?:{'|'.join(sorted(WRAPPERS))})\.)+"
"""A regular expression for wrappers in a name, for libraries that rename weights by one."""


def unwrapped_name(name: str) -> str:
    """The name without wrappers."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def unwrapped(state: Mapping[str, Weight], where: str) -> dict[str, Weight]:
    """A state with its names unwrapped. UserError, which names `where` it is from, if two names become one."""
    names: dict[str, str] = {}
    for name in state:
        other = names.setdefault(unwrapped_name(name), name)
        if other != name:
            raise UserError(f"{where} holds both {other} and {name}, two weights of one name: keep one of them")
    return {name: state[original] for name, original in names.items()}
