"""How every command reads its options and tells its user what is wrong with them."""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from launch.command.exit_codes import BAD_INPUT

Config = TypeVar("Config")


ERRORS_FOLDER = "VQLOOM_ERRORS"
"""Environment variable with which a launcher of several ranks names a folder of its own, to tell an error only once."""


class UserError(ValueError):
    """What the user can mend: one line that names the key, the rule, the value and a way out."""


def parse(config_class: type[Config], argv: Sequence[str] | None = None, *, prog: str, description: str = "") -> Config:
    """Read `--config FILE.yaml` and dotted overrides (`--a.b value`) into a frozen dataclass.

    Later options win. `--print_config` prints the resolved configuration and ends; `--help` shows every field with its
    docstring. Raises UserError for an unknown key, a value of the wrong type, and for a ValueError that a dataclass's
    own `__post_init__` raises.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=prog, description=description or config_class.__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="A YAML file; options after it override it.")
    parser.add_class_arguments(config_class, fail_untyped=True, sub_configs=False)
    try:
        namespace = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
        namespace.pop("config", None)
        made = parser.instantiate(namespace)
        return config_class(**{key: made[key] for key in _names(config_class)})
    except (ArgumentError, ValueError, TypeError, OSError) as error:
        raise UserError(_one_line(error)) from error


def _names(config_class: type) -> list[str]:
    return [field.name for field in dataclasses.fields(config_class)]


def _one_line(error: BaseException) -> str:
    """The library's message without its line breaks and usage text."""
    return " ".join(str(error).split())


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's main function: exit 0 or what it returns; a UserError is one line on stderr and exit 2."""
    try:
        _leave(main() or 0)
    except UserError as error:
        if _first_to_tell(str(error)):
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(code: int) -> NoReturn:
    """End the process. A launched rank skips the interpreter's own clean-up, in which finished ranks have aborted."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _first_to_tell(message: str) -> bool:
    """Whether no other rank of this launch has told the user the same: ranks mostly meet the same mistake."""
    folder = os.environ.get(ERRORS_FOLDER)
    if folder is None:
        return True
    try:
        (Path(folder) / hashlib.sha256(message.encode()).hexdigest()).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
