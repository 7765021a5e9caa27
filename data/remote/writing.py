"""Writing to buckets, with errors for the user."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from data.remote import stores
from launch.command.cli import UserError


def refuse_read_only(out: str) -> None:
    """UserError where `out` is a URL that can only be read."""
    if not stores.in_bucket(out):
        name = stores.without_secrets(out)
        raise UserError(f"out={name} can't be written to: give a local path, or one in a bucket (s3://, gs://, az://)")


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Failures of the block as a UserError about `url`."""
    try:
        yield
    except (stores.FinalError, ConnectionError, TimeoutError) as error:
        what = str(error) or "no answer"
        raise UserError(
            f"{stores.without_secrets(url)} can't be used ({what}): check the address and the rights"
        ) from None


def there(url: str) -> bool:
    """Whether a bucket holds the object. UserError where it can't tell."""
    refuse_read_only(url)
    with reaching(url):
        return stores.exists(url)


def write(url: str, contents: bytes | Path) -> None:
    """Write an object whole. UserError where that fails."""
    refuse_read_only(url)
    with reaching(url):
        stores.put(url, contents)
