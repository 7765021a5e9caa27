"""Patterns of remote files: `s3://bucket/set/*.tar`."""

import logging
import re
from collections.abc import Iterable

from data.remote import stores
from data.remote.files import filesystem
from launch.command.cli import UserError, reason

_log = logging.getLogger(__name__)


def in_buckets(urls: Iterable[str]) -> dict[str, stores.Version | None]:
    """What buckets say of these objects, None of one that isn't there; one request for a thousand objects of a folder.

    Left out is what only a request of its own could tell: files behind HTTP, and folders that may not be listed.
    """
    folders: dict[str, list[str]] = {}
    for url in urls:
        if stores.in_bucket(url):
            folders.setdefault(url.rpartition("/")[0] + "/", []).append(url)
    said: dict[str, stores.Version | None] = {}
    for folder, of_folder in folders.items():
        try:
            found = stores.listed(folder, deep=False)
        except Exception as error:  # those who may read may not always list
            _log.info("%s can't be listed (%s): its shards are checked when they are read", folder, error)
            continue
        said |= {url: found.get(url) for url in of_folder}
    return said


def matching(pattern: str) -> list[str]:
    """URLs that match `*` (not over a slash), `**/`, `?` and `[…]`, unsorted; the URL itself where it is there.

    UserError where the place can't be listed.
    """
    name = stores.without_secrets(pattern)
    if pattern.startswith(("http://", "https://")):
        raise UserError(f"{name} can't be listed over HTTP: write the names with braces, such as {{000..127}}")
    try:
        if stores.in_store(pattern):
            start = re.split(r"[*?[]", pattern, maxsplit=1)[0]
            found = stores.listed(start)
            fits = re.compile(_expression(pattern)).fullmatch
            return [pattern] if pattern in found else [url for url in found if fits(url)]
        files, path = filesystem(pattern)
        return (
            [files.unstrip_protocol(path)]
            if files.exists(path)
            else [files.unstrip_protocol(one) for one in files.glob(path)]
        )
    except Exception as error:  # each file system has errors of its own
        what = str(error) if isinstance(error, stores.FinalError) else reason(error)
        raise UserError(f"{name} can't be listed ({what}): check the address and the rights, or use braces") from None


def _expression(pattern: str) -> str:
    """The regular expression of a pattern; `glob.translate` of Python 3.13, for older ones."""
    signs = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*|\?|\[[^]]+\])", pattern)
    of_letters = [part.replace("[!", "[^", 1) if part[:1] == "[" and part[-1:] == "]" else "" for part in parts]
    return "".join(
        signs.get(part) or letters or re.escape(part) for part, letters in zip(parts, of_letters, strict=True)
    )
