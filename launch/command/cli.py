"""How every command reads its options and tells its user what is wrong with them."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import os
import re
import signal
import sys
import threading
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from launch.command import interrupts
from launch.command.cores import settle
from launch.command.exit_codes import BAD_INPUT, INTERRUPTED, SIGNALLED
from launch.command.file_errors import DISK, OutputError, told
from launch.command.kinds import narrowed, whole
from launch.command.memory import keep_freed
from launch.command.values import form, inner
from launch.command.words import Words

Config = TypeVar("Config")

ERRORS_FOLDER = "VQLOOM_ERRORS"
"""Environment variable with which a launcher of several ranks names a folder of its own, to tell an error only once."""

INTERRUPTION = "interrupted by Ctrl-C"
"""What a command says that Ctrl-C ended before it was done."""


class UserError(ValueError):
    """What the user can mend: one line that names the key, the rule, the value and a way out."""


def one_line(error: BaseException | str, most: int | None = None) -> str:
    """A message without its line breaks, cut at `most` letters; the name of the error's type where it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def reason(error: BaseException) -> str:
    """The type of a library's error and the first line of its message, without the addresses of objects in it."""
    words = re.sub(r" <[^<>]* at 0x[0-9a-f]+>", "", str(error))
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300].rstrip(".:")


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    description: str = "",
    positional: Sequence[str] = (),
    rest: str | None = None,
) -> Config:
    """Read `--config FILE.yaml` and dotted overrides (`--a.b value`) into a frozen dataclass.

    Later options win; that an option was given twice is said. Hyphens in options' names are underscores; a boolean
    option without a value is true, `--no-NAME` makes it false. launch.command.values has the forms of values, the same
    on the command line and in files. Words without an option go to the fields that `positional` names, in this order; a
    list takes all that are left. Where none are waited for, the option of a list takes several words. `rest` names the
    list that gets everything after the last of them, options included. A dataclass with a field `config` reads no
    configuration file; a field `from_` is the option --from. Old names of settings are understood
    (launch.command.renamed), and blocks in several forms (launch.command.kinds).

    `--print_config` prints the resolved configuration and ends; `--help` shows every field with its docstring, and how
    lists, dictionaries and flags are written. Raises UserError for an unknown key, a value of the wrong type, and for
    a ValueError that a dataclass's own `__post_init__` raises.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    words = list(sys.argv[1:] if argv is None else argv)
    explained = any(word.startswith(("-h", "--h", "--print")) for word in words)  # reading docstrings takes a third
    set_parsing_settings(docstring_parse_attribute_docstrings=explained)
    try:
        form_class = narrowed(config_class, words)
    except ValueError as error:
        raise UserError(one_line(error)) from error
    names = [field.name for field in dataclasses.fields(typing.cast("Any", config_class))]
    parser = ArgumentParser(prog=prog, description=description or config_class.__doc__, exit_on_error=False)
    if "config" not in names:
        parser.add_argument("--config", action="config", help="A YAML file; options after it override it.")
    parser.add_class_arguments(form_class, fail_untyped=True, sub_configs=False)
    for name in names:
        if name.endswith("_"):
            parser._option_string_actions[f"--{name[:-1]}"] = action = parser._option_string_actions.pop(f"--{name}")
            action.option_strings = [f"--{name[:-1]}"]
    if explained:
        _show_forms(parser, form_class)
    read = Words(form_class, positional, rest)
    try:
        namespace = parser.parse_args(read.options(words))
        if "config" not in names:
            namespace.pop("config", None)
        values = parser.instantiate(namespace)
        config = whole(form_class(**{name: values[name] for name in names}))
    except (ArgumentError, ValueError, TypeError, OSError) as error:
        raise UserError(_parsing_told(error, positional)) from error
    read.tell_repeated()
    return config


def _show_forms(parser: Any, config_class: type) -> None:
    """Add to the help of each setting that is no single value how it is written."""
    for action in parser._actions:
        try:
            kind: Any = config_class
            for name in action.dest.split("."):
                kind = inner(kind, name)
        except KeyError:
            continue
        if (written := form(action.dest, kind, action.default)) != f"--{action.dest} VALUE":
            action.help = f"{action.help or ''} Form: {written.replace('%', '%%')}."


def _parsing_told(error: Exception, positional: Sequence[str]) -> str:
    """What the parser found wrong, as a line."""
    missing = re.search(r'(?:Key "|arguments are required: )([\w.]+)', str(error))
    if missing is None:
        return one_line(error)
    key = missing[1].removesuffix("_")
    where = f"give it as word {positional.index(key) + 1} of the command, or as" if key in positional else "give"
    return f"{key} is missing: {where} --{key} VALUE; --help says more"


def run(main: Callable[[], int | None], *, computes: bool = True) -> NoReturn:
    """Run a command's main function: exit 0 or what it returns; what the user can mend is one line and exit 2.

    That is a UserError, or an OSError of a file: a full disk, a folder that can't be written or read. Ctrl-C is one
    line and exit 130 (launch.command.interrupts). `computes=False` is for commands that start others, whose threads it
    leaves to them, or only read and write files: they needn't look at the cores first.
    """
    interrupts.listen()
    if computes:
        settle()
        keep_freed()
    try:
        code = main() or 0
        _flush()
        _leave(code, program=getattr(main, "__globals__", None) is vars(sys.modules["__main__"]))
    except (KeyboardInterrupt, Exception) as error:
        line = None if interrupts.raised() and not isinstance(error, UserError) else mended_by_user(error)
        if line is not None:
            # Ranks that write files of their own meet a full disk at once.
            subject = f"disk error {error.errno}" if isinstance(error, OSError) and error.errno in DISK else line
            if first_to_tell(subject):
                print(f"error: {line}", file=sys.stderr, flush=True)
            _forget_stdout()
            sys.exit(BAD_INPUT)
        if isinstance(error, BrokenPipeError):  # whoever read our output wants no more of it
            _forget_stdout()
            sys.exit(SIGNALLED + signal.SIGPIPE)
        if not isinstance(error, KeyboardInterrupt) and not interrupts.raised():
            raise
        if first_to_tell(INTERRUPTION):
            print(INTERRUPTION, file=sys.stderr, flush=True)
        _leave(INTERRUPTED)
    finally:
        interrupts.leave()


def mended_by_user(error: BaseException) -> str | None:
    """The line that tells the user of an error that he can mend; None for errors of ours."""
    if isinstance(error, UserError):
        return str(error)
    return one_line(line) if isinstance(error, OSError) and (line := told(error)) else None


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.errno, error.strerror, "standard output") from error


def _forget_stdout() -> None:
    """Let the interpreter's end not fail on what a full disk or a closed pipe didn't take."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(code: int, *, program: bool = False) -> NoReturn:
    """End the process. A `program` that loaded torch skips the interpreter's clean-up, in which some have aborted.

    So do launched ranks, and a command after Ctrl-C: the clean-up waits for threads, and may turn the exit code into a
    signal.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    if not launched and code != INTERRUPTED:
        if not program or "torch" not in sys.modules:
            sys.exit(code)
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter would
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def first_to_tell(message: str) -> bool:
    """Whether no other rank of this launch has told the user the same: ranks mostly meet the same mistake."""
    try:
        if folder := os.environ.get(ERRORS_FOLDER):
            (Path(folder) / hashlib.sha256(message.encode()).hexdigest()).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        pass  # better twice than never
    return True
