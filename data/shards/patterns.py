"""Finds tars by path or pattern. What exists under the name as it is written wins over what it means as a pattern."""

import glob
import os
from pathlib import Path

from data.remote.listing import matching
from data.remote.stores import in_bucket
from data.shards.locations import is_remote
from launch.command.cli import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz")


def find_tars(pattern: str, *, key: str = "") -> list[str]:
    """Tars that match a pattern, sorted; those in a folder; or several patterns, joined by `::`.

    Braces (`{000..127}`), `*`, `?` and `[…]` in paths and in fsspec's schemes; `~` is the home folder. A file or folder
    that exists is taken as it is called, also where its name has brackets or braces. UserError, which names the `key`
    of the setting, where there are none. A URL without `*` is assumed to exist.
    """
    tars: set[str] = set()
    whole = pattern.startswith("pipe:") or "::" not in _existing_part(pattern)[1]
    for part in [pattern] if whole else pattern.split("::"):
        tars.update(_remote(part) if is_remote(part) else _local(part))
    if not tars:
        before = f"{key}={pattern}" if key else pattern
        raise UserError(f"{before} matches no tar: check the pattern, and quote it for the shell")
    return sorted(tars)


def _local(pattern: str) -> list[str]:
    path = os.path.expanduser(pattern.removeprefix("file://"))  # noqa: PTH111 (a pattern, not a path)
    if not path:
        return []
    if os.path.isdir(path):  # noqa: PTH112
        inside = (entry for entry in Path(path).iterdir() if not entry.name.startswith("."))
        return [str(entry) for entry in inside if entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()]
    literal, rest = _existing_part(path)
    if not rest:
        return [path]
    found = list[str]()
    for one in _braces(rest, pattern):
        if glob.has_magic(one):
            matches = glob.glob(glob.escape(literal) + one, recursive=True)  # noqa: PTH207 (may be absolute)
            # Brackets that match nothing as a pattern are part of a name.
            found += matches or glob.glob(glob.escape(literal) + one.replace("[", "[[]"), recursive=True)  # noqa: PTH207
        else:
            found.append(literal + one)
    return found


def _existing_part(path: str) -> tuple[str, str]:
    """The longest beginning of a path that exists as it is written, with its slash, and the rest."""
    parts = path.split("/")
    for count in range(len(parts), 0, -1):
        beginning = "/".join(parts[:count])
        if os.path.lexists(beginning or "/"):
            rest = "/".join(parts[count:])
            return (f"{beginning}/", rest) if rest else (path, "")
    return "", path


def _remote(pattern: str) -> list[str]:
    found = list[str]()
    for one in [pattern] if pattern.startswith("pipe:") else _braces(pattern, pattern):
        sought = one.partition("?")[0] if one.startswith("http") else one
        if in_bucket(one) and ".tar" not in one and not glob.has_magic(one):
            one = sought = f"{one.rstrip('/')}/*.tar"  # a folder
        found += matching(one) if glob.has_magic(sought) and not one.startswith("pipe:") else [one]
    return found


def _braces(text: str, pattern: str) -> list[str]:
    """What a text with braces stands for."""
    import braceexpand

    try:
        return list(braceexpand.braceexpand(text, escape=False))
    except ValueError as error:
        raise UserError(f"{pattern}: {error}: write ranges like {{000..127}}") from error
