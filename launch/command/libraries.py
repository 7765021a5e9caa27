"""Libraries of extras, which commands on other kinds of data do without."""

import importlib
from typing import Any

from launch.command.cli import UserError, one_line


class Missing:
    """In place of a library that isn't installed: its use is told as what the user can mend."""

    def __init__(self, name: str, extra: str, why: str):
        self._name, self._extra, self._why = name, extra, why

    def __getattr__(self, name: str) -> Any:
        raise UserError(f"{self._extra}s need {self._name} ({self._why}): pip install 'vqloom[{self._extra}]'")


def library(name: str, extra: str) -> Any:
    """A library of an extra (`sound`, `video`), or what says how to install it."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: its own library is missing
        return Missing(name, extra, one_line(error, 100))
