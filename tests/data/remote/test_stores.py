"""Where credentials and endpoints come from, and what messages say: against servers and files of the test's own."""

from __future__ import annotations

import http.server
import os
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from data.remote import stores
from data.remote.files import Patience, RemoteFile, whole
from data.remote.listing import matching
from data.remote.profiles import aws_settings
from launch.command.cli import UserError
from tests.data.serving import Served, served

ONCE = Patience(retries=1, stall_seconds=5.0)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No settings of this machine; an empty home."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    stores.forget()
    yield home
    stores.forget()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    for path in ("bucket/a/x.tar", "account/box/a/x.tar"):
        (tmp_path / "www" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "www" / path).write_bytes(b"0123456789")
    with served(tmp_path / "www") as running:
        yield running


def read(url: str, start: int = 0, stop: int | None = None) -> bytes:
    return whole(RemoteFile(url, ONCE, start=start, stop=stop))


class Signed:
    """The Authorization headers that a server got, which answers every request with ten bytes."""

    def __init__(self, status: int = 200) -> None:
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(status)
                for name, value in (("Content-Length", "10"), ("ETag", '"1"'), ("Last-Modified", _DATE)):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"0123456789")

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


_DATE = "Sat, 28 Nov 2026 10:00:00 GMT"


@pytest.fixture
def signed() -> Iterator[Signed]:
    one = Signed()
    yield one
    one.server.shutdown()
    one.server.server_close()


def profile(home: Path, credentials: str = "", config: str = "") -> None:
    (home / ".aws/credentials").write_text(credentials)
    (home / ".aws/config").write_text(config)
    stores.forget()


def key_used(signed: Signed) -> str:
    read("s3://bucket/a/x.tar")
    return signed.headers[-1]["authorization"].partition("Credential=")[2].partition(",")[0]


def test_keys_region_and_endpoint_come_from_profiles(
    signed: Signed, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = "aws_access_key_id = {0}ID\naws_secret_access_key = {0}SECRET\n"
    profile(
        clean,
        f"[default]\n{keys.format('first')}[other]\n{keys.format('other')}aws_session_token = TOKEN\n",
        f"[default]\nregion = eu-west-1\nendpoint_url = {signed.url}\n"
        f"[profile other]\nregion = eu-north-1\nservices = mine\n[services mine]\ns3 =\n  endpoint_url = {signed.url}\n"
        f"[profile process]\nendpoint_url = {signed.url}\n"
        f"credential_process = {sys.executable} {clean / 'keys.py'}\n",
    )
    (clean / "keys.py").write_text(
        'print(\'{"Version": 1, "AccessKeyId": "procID", "SecretAccessKey": "S", '
        '"Expiration": "2099-01-01T00:00:00Z"}\')'
    )
    assert key_used(signed).startswith("firstID/") and "/eu-west-1/" in key_used(signed)
    monkeypatch.setenv("AWS_PROFILE", "other")
    stores.forget()
    assert key_used(signed).startswith("otherID/") and "/eu-north-1/" in key_used(signed)
    assert signed.headers[-1]["x-amz-security-token"] == "TOKEN"
    monkeypatch.setenv("AWS_PROFILE", "process")
    stores.forget()
    assert key_used(signed).startswith("procID/") and "/us-east-1/" in key_used(signed)


def test_the_environment_comes_before_profiles(signed: Signed, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile(
        clean,
        "[default]\naws_access_key_id = fileID\naws_secret_access_key = S\n",
        "[default]\nregion = eu-west-1\nendpoint_url = http://127.0.0.1:1\n",
    )
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "envID"),
        ("AWS_SECRET_ACCESS_KEY", "S"),
        ("AWS_DEFAULT_REGION", "sa-east-1"),
        ("AWS_ENDPOINT_URL_S3", signed.url),
    ):
        monkeypatch.setenv(name, value)
    assert key_used(signed).startswith("envID/") and "/sa-east-1/" in key_used(signed)


def test_public_buckets_are_read_without_keys(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", signed.url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert read("s3://bucket/a/x.tar") == b"0123456789"
    assert "authorization" not in signed.headers[-1]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "AWS_PROFILE=mine is in neither"),
        ("[profile mine]\nsso_start_url = https://x\n", "needs boto3"),
        ("[profile mine]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = default\n", "needs boto3"),
        ("[profile mine]\ncredential_process = /no/such/program HIDDEN\n", "credential_process .* mine failed"),
        ("[profile mine\nHIDDEN", "can't be read"),
    ],
)
def test_a_profile_that_cant_be_used_is_told_in_one_line(
    signed: Signed, clean: Path, monkeypatch: pytest.MonkeyPatch, config: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL", signed.url)
    profile(clean, "", config)
    with pytest.raises(UserError, match=words) as caught:
        read("s3://bucket/a/x.tar")
    assert "\n" not in str(caught.value) and "HIDDEN" not in str(caught.value)


def test_roles_are_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert aws_settings() == ({}, None)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1/")
    assert aws_settings() == ({}, None)


def test_google_and_azure(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BASE_URL", server.url)
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert read("gs://bucket/a/x.tar", 2, 5) == b"234"
    joined = f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey=U0VDUkVU;BlobEndpoint={server.url}/account"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", joined)
    for scheme in ("az", "abfs"):
        assert read(f"{scheme}://box/a/x.tar", 2, 5) == b"234"
    assert [unquote(path.partition("?")[0]) for path in server.requests] == [
        "/bucket/a/x.tar",
        *["/account/box/a/x.tar"] * 2,
    ]


@pytest.mark.parametrize("host", stores._METADATA)
def test_where_only_the_machine_could_give_credentials_and_has_none_a_line_names_the_settings(host: str) -> None:
    error = stores.translated(Exception(f"Generic S3 error: Error performing PUT http://{host}/token - nothing"))
    assert isinstance(error, stores.FinalError)
    assert all(name in str(error) for name in ("AWS_PROFILE", "GOOGLE_", "AZURE_", "SKIP_SIGNATURE=true"))


@pytest.mark.parametrize("name", ["a b", "a%20b", "a+b", "ü", "a?b", "a#b"])
def test_names_with_special_characters(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.tar").write_bytes(b"0123456789")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Handler(*a, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        # This server knows no ranges either.
        assert read(f"http://127.0.0.1:{server.server_port}/{quote(name)}.tar", 2, 5) == b"234"
    finally:
        server.shutdown()
        server.server_close()


def test_signed_addresses_are_sent_whole_and_shown_without_their_query(server: Served) -> None:
    url = f"{server.url.replace('//', '//user:PASS@')}/bucket/a/x.tar?X-Amz-Signature=SECRET&b=c%2Fd"
    assert read(url) == b"0123456789"
    assert server.requests[-1] == "/bucket/a/x.tar?X-Amz-Signature=SECRET&b=c%2Fd"
    for broken in (url.replace("x.tar", "none.tar"), "http://user:PASS@127.0.0.1:1/a.tar?sig=SECRET"):
        with pytest.raises(UserError) as caught:
            read(broken)
        assert "127.0.0.1" in str(caught.value)
        assert not any(word in str(caught.value) for word in ("SECRET", "PASS", "user", "\n"))


def test_what_a_server_says_is_not_repeated() -> None:
    body = "<Error><Code>AccessDenied</Code><Message>key AKIASECRET of arn:aws:iam::SECRET</Message></Error>"
    error = stores.translated(Exception(f"Error performing GET https://h/x?sig=SECRET in 1ms - Server returned "
                                        f"non-2xx status code: 403 Forbidden: {body}"))  # fmt: skip
    assert str(error) == "HTTP status 403, AccessDenied" and isinstance(error, stores.FinalError)
    for status, final in ((500, False), (503, False), (429, False), (408, False), (404, True), (401, True)):
        error = stores.translated(Exception(f"Server returned non-2xx status code: {status} Words: x"))
        assert isinstance(error, stores.FinalError) == final, status


def test_a_changed_file_is_noticed_by_the_time_of_its_last_change_where_it_has_no_etag() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert stores._version({"size": 1, "e_tag": 'W/"x"', "last_modified": at}).tag == "2026-01-01T00:00:00+00:00"
    assert stores._version({"size": 1, "e_tag": None, "last_modified": datetime.fromtimestamp(0, UTC)}).tag is None


@pytest.mark.parametrize(
    ("pattern", "fits", "not_"),
    [
        ("s3://b/x/*.tar", ["s3://b/x/1.tar"], ["s3://b/x/y/1.tar", "s3://b/x/1xtar", "s3://c/x/1.tar"]),
        ("s3://b/**/*.tar", ["s3://b/1.tar", "s3://b/x/y/1.tar"], ["s3://b/x.txt"]),
        ("s3://b/x-?[!0].tar", ["s3://b/x-01.tar"], ["s3://b/x-00.tar", "s3://b/x-/1.tar"]),
    ],
)
def test_patterns(pattern: str, fits: list[str], not_: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    every = {url: stores.Version(1) for url in (*fits, *not_)}
    monkeypatch.setattr(stores, "listed", lambda start: {u: v for u, v in every.items() if u.startswith(start)})
    assert sorted(matching(pattern)) == sorted(fits)


def test_http_cant_be_listed() -> None:
    with pytest.raises(UserError, match=r"http://h/\*\.tar can't be listed over HTTP: write .* braces"):
        matching("http://u:PASS@h/*.tar?sig=SECRET")


def test_a_forked_process_is_refused_instead_of_hanging(server: Served) -> None:
    read(f"{server.url}/bucket/a/x.tar")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            read(f"{server.url}/bucket/a/x.tar")
            os.write(writer, b"read")
        except BaseException as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    assert "forked" in said


def test_certificates_of_a_private_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(UserError, match=r"none\.pem"):
        read("s3://bucket/x.tar")
