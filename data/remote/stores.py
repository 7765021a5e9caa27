"""Objects behind `s3://`, `gs://`, `az://` and `http(s)://`, by obstore: open a range, list, write, delete.

Credentials and endpoints come from where the tools of each store look for them: the environment, AWS profiles, Google's
application default credentials, the roles of the machine. Errors are translated here; no message holds a secret.
"""

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

import obstore
from obstore.exceptions import NotSupportedError, PermissionDeniedError, UnauthenticatedError
from obstore.store import HTTPStore, from_url

from data.remote.profiles import aws_settings
from launch.command.cli import UserError

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "http", "https")
_CHUNK = 1 << 20
_PART = 1 << 24
_FINAL = {301, 400, 401, 403, 404, 405, 410, 412, 416}
_TRANSIENT = {"RequestTimeout", "InternalError", "OperationAborted"}
_EXPLAINED = {
    "ExpiredToken": "the credentials have expired: renew them",
    "RequestExpired": "the credentials have expired: renew them",
    "InvalidAccessKeyId": "the access key is unknown",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "NoSuchBucket": "the bucket is missing",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
}
_NO_CREDENTIALS = (
    "no credentials found: set those of the store in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
    "AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY), or AWS_SKIP_SIGNATURE=true, "
    "GOOGLE_SKIP_SIGNATURE=true, AZURE_SKIP_SIGNATURE=true for a public bucket"
)
_UNSET = {
    "Account must be specified": "set AZURE_STORAGE_ACCOUNT_NAME, or AZURE_STORAGE_CONNECTION_STRING",
    "Missing AccessKeyId": "AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID",
    "Missing SecretAccessKey": "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY",
}
_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "fd00:ec2::254")


class FinalError(Exception):
    """Trying again is useless: the object isn't there, may not be read, or changed."""


class Version(NamedTuple):
    """What tells one state of an object from another; None where the server doesn't say."""

    size: int | None
    tag: str | None = None
    """Its ETag, or else the time of its last change."""


def without_secrets(url: str) -> str:
    """The URL without user, password and query: those may hold secrets, and messages are logged. Paths stay."""
    if "://" not in url or url.startswith("pipe:"):
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def in_store(url: str) -> bool:
    """Whether the functions below take the URL."""
    return url.partition("://")[0] in SCHEMES and "://" in url


def in_bucket(url: str) -> bool:
    """Whether the URL's place can be listed and written."""
    return in_store(url) and not url.startswith(("http://", "https://"))


def open_range(
    url: str, start: int, stop: int | None, seconds: float, chunk: int = _CHUNK
) -> tuple[Iterator[bytes], Version]:
    """Bytes `start` to `stop` - 1 (None: to the end) in pieces of `chunk` bytes or more, and the object's version.

    One request.

    FinalError, TimeoutError (nothing came for so many seconds) or ConnectionError, here or from the iterator.
    """
    try:
        store, key = _place(url, seconds, 0)
        reach: Any = {"offset": start} if stop is None else (start, stop)
        try:
            result = obstore.get(store, key, options={} if (start, stop) == (0, None) else {"range": reach})
            skipped = 0
        except NotSupportedError:  # the server knows no ranges
            result, skipped = obstore.get(store, key), start
        version = _version(result.meta)
    except Exception as error:
        raise translated(error) from None
    return _pieces(result, skipped, chunk), version


def listed(url: str, *, deep: bool = True) -> dict[str, Version]:
    """The objects whose URLs begin with `url`, a folder or the beginning of a name. Errors as in `open_range`.

    Those in folders below it only if `deep`.
    """
    try:
        store, key = _place(url, 60.0, 3)
        root = url.removesuffix(key)
        folder = key.rpartition("/")[0] or None
        if deep:
            found = [meta for some in obstore.list(store, folder, chunk_size=1000) for meta in some]
        else:
            found = list(obstore.list_with_delimiter(store, folder)["objects"])
    except Exception as error:
        raise translated(error) from None
    return {root + meta["path"]: _version(meta) for meta in found if meta["path"].startswith(key)}


def exists(url: str) -> bool:
    """Whether the object is there. Errors as in `open_range`."""
    try:
        store, key = _place(url, 60.0, 3)
        obstore.head(store, key)
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise translated(error) from None
        return False
    except Exception as error:
        raise translated(error) from None
    return True


def put(url: str, contents: bytes | Path) -> None:
    """Write an object whole, a large file in parts: it appears at the end or not at all. Errors as in `open_range`."""
    try:
        store, key = _place(url, 60.0, 8)
        obstore.put(store, key, contents, chunk_size=_PART, max_concurrency=4)
    except Exception as error:
        raise translated(error) from None


def delete(url: str) -> None:
    """Delete an object; nothing happens where there is none. Errors as in `open_range`."""
    try:
        store, key = _place(url, 60.0, 8)
        obstore.delete(store, key)
    except FileNotFoundError:
        return
    except Exception as error:
        raise translated(error) from None


def translated(error: Exception) -> Exception:
    """An error of the library as FinalError, TimeoutError or ConnectionError, in words without secrets.

    The library's message goes on with the answer's body and with all that it knows; only what is known is taken.
    """
    if isinstance(error, FinalError | UserError):
        return FinalError(str(error))
    text = str(error)
    status = next(iter(re.findall(r"status code: (\d{3})", text)), "")
    code = next(iter(re.findall(r"<Code>(\w+)</Code>", text)), "")
    if any(host in text for host in _METADATA):
        return FinalError(_NO_CREDENTIALS)
    if "credential provider" in text and (own := re.findall(r"PermissionError: ([^\n]*)", text)):
        return FinalError(own[0])
    if status:
        said = f"HTTP status {status}" + (f", {_EXPLAINED.get(code, code)}" if code else "")
        return FinalError(said) if int(status) in _FINAL and code not in _TRANSIENT else ConnectionError(said)
    for sign, words in _UNSET.items():
        if sign in text:
            return FinalError(words)
    if "kind: Timeout" in text or "TimedOut" in text:
        return TimeoutError()
    for sign, words in (
        ("kind: Connect", "no connection"),
        ("ConnectionReset", "the connection was reset"),
        ("IncompleteBody", "the connection broke off"),
    ):
        if sign in text:
            return ConnectionError(words)
    first = re.sub(r"Error performing .*? in \S+ - |^Generic \w+ error: ", "", text.split("\n")[0])
    first = re.sub(r"\w+://\S+", lambda match: without_secrets(match[0]), first)[:200] or type(error).__name__
    # Without a status the request was never sent, or the answer broke off: what the library names by a type is final.
    final = (FileNotFoundError, PermissionDeniedError, UnauthenticatedError, ValueError, ImportError)
    unsent = ("must be specified", "Invalid", "Unable to", "Missing", "missing", "StartTooLarge")
    return (FinalError if isinstance(error, final) or any(w in text for w in unsent) else ConnectionError)(first)


def _version(meta: Any) -> Version:
    """A weak ETag may differ between equal answers; the epoch stands for a time that isn't known."""
    tag, time = meta["e_tag"], meta["last_modified"]
    if not tag or tag.startswith("W/"):
        tag = time.isoformat() if time.timestamp() else None
    return Version(meta["size"], tag)


def _pieces(result: Any, skipped: int, chunk: int) -> Iterator[bytes]:
    stream = iter(result.stream(min_chunk_size=chunk))
    while True:
        try:
            piece = next(stream, b"")
        except Exception as error:
            raise translated(error) from None
        if not piece:
            return
        if skipped < len(piece):
            yield piece[skipped:] if skipped else piece
        skipped = max(0, skipped - len(piece))


def _place(url: str, seconds: float, retries: int) -> tuple[Any, str]:
    """The store of a URL, and the object's key in it."""
    scheme, _, rest = url.partition("://")
    if scheme in ("http", "https"):
        parts = urlsplit(url)
        root = urlunsplit((scheme, parts.netloc, "", parts.query, ""))
        return _store(os.getpid(), root, seconds, retries), unquote(parts.path).lstrip("/")
    bucket, _, key = rest.partition("/")
    return _store(os.getpid(), f"{'s3' if scheme == 's3a' else scheme}://{bucket}", seconds, retries), key


@lru_cache(64)
def _store(process: int, root: str, seconds: float, retries: int) -> Any:
    """A client. `seconds` without a byte end a request; `retries` are the library's own, silent ones."""
    _refuse_fork(process)
    limit = timedelta(seconds=seconds)
    options: Any = {
        "allow_http": True,
        "timeout": timedelta(days=1),
        "read_timeout": limit,
        "connect_timeout": limit,
        "user_agent": "vqloom",
    }
    again: Any = {"max_retries": retries, "retry_timeout": timedelta(minutes=10)}
    if root.startswith("http"):
        return HTTPStore(root, client_options=options, retry_config=again)
    settings, given = _settings(root)
    if certificates := os.environ.get("AWS_CA_BUNDLE") if root.startswith("s3:") else None:
        options["root_certificate"] = Path(certificates).read_bytes()
    return from_url(root, client_options=options, retry_config=again, config=settings, **given)


def _settings(root: str) -> tuple[Any, dict[str, Any]]:
    """What the library doesn't find in the environment by itself, and a provider of credentials if it needs one."""
    if root.startswith("s3:"):
        found, provider = aws_settings()
        return found, {"credential_provider": provider} if provider else {}
    if root.startswith("gs:"):
        return {}, {}
    # Azure's own tools also know these.
    names = {"AccountName": "account_name", "AccountKey": "account_key", "SharedAccessSignature": "sas_key"}
    names["BlobEndpoint"] = "endpoint"
    joined = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    values = {names[k]: v for k, _, v in (part.partition("=") for part in joined.split(";")) if k in names}
    for variable, name in (("AZURE_STORAGE_ACCOUNT", "account_name"), ("AZURE_STORAGE_KEY", "account_key")):
        if variable in os.environ:
            values[name] = os.environ[variable]
    return values, {}


_users: set[int] = set()


def _refuse_fork(process: int) -> None:
    """The library's threads don't survive a fork: a forked process would wait for them without end."""
    _users.add(process)
    if len(_users) > 1:
        raise RuntimeError("a process that has read from object stores was forked, and the child reads from them")


def forget() -> None:
    """Drop all clients, so that the next access reads the environment again."""
    _store.cache_clear()
