"""The server that the tests of this folder share, and its buckets.

They need what install.sh installs, and skip themselves without; with VQLOOM_NEED_S3=1 they fail instead.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.remote import stores
from tests.s3.proxy import Proxy, proxied
from tests.s3.server import Server, missing

_names = (f"bucket-{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Stopped at the end, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="s3-", dir=os.environ.get("VQLOOM_S3_FOLDER")))
    try:
        if reason := missing(folder):
            if os.environ.get("VQLOOM_NEED_S3") == "1":
                pytest.fail(f"VQLOOM_NEED_S3=1, but {reason}")
            pytest.skip(reason)
        with Server(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy in front of the server, which the environment names; no other settings of the machine are seen."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with proxied(server.address) as between:
        for name, value in {**server.environment, "AWS_ENDPOINT_URL": between.url}.items():
            monkeypatch.setenv(name, value)
        stores.forget()
        yield between
    stores.forget()


@pytest.fixture
def bucket(server: Server, proxy: Proxy) -> str:
    """The URL of an empty bucket."""
    return server.bucket(next(_names))
