"""Training from a real S3 server: the batches of local shards, whatever goes wrong on the way."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from data.config import DataConfig
from data.reading.stream import Stream, every_sample
from data.remote import stores
from launch.command.cli import UserError
from tests.data.making import picture_set
from tests.data.streaming import SMALL, batches
from tests.s3.proxy import Proxy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_set(tmp_path_factory.mktemp("set"), [10, 17, 21]).parent


@pytest.fixture
def index(folder: Path, bucket: str) -> str:
    """The set in a bucket."""
    for path in folder.iterdir():
        stores.put(f"{bucket}/deep/er/{path.name}", path)
    return f"{bucket}/deep/er/set.json"


@pytest.fixture(scope="module")
def healthy(folder: Path) -> list[tuple[list[str], bytes]]:
    return batches(str(folder / "set.json"))


def test_a_bucket_gives_the_batches_of_a_folder_and_resumes(index: str, healthy: list) -> None:
    assert batches(index) == healthy
    assert batches(index, start=9, count=5) == healthy[9:]


@pytest.mark.parametrize("how", ["503", "429", "reset", "truncated", "stall", "slow"])
@pytest.mark.parametrize("cached", [False, True])
def test_a_failing_server_gives_the_batches_of_a_healthy_one(
    index: str, healthy: list, proxy: Proxy, tmp_path: Path, how: str, cached: bool
) -> None:
    every = 5 if how in ("stall", "slow") else 2
    proxy.fault = lambda method, path, number: how if path.endswith(".tar") and number % every == 0 else ""
    cache = str(tmp_path / "cache") if cached else None
    assert batches(index, count=6, cache=cache, stall_seconds=0.5, retries=30) == healthy[:6]
    assert proxy.count(".tar") > 3


def test_a_stall_is_told_with_the_shards_name(index: str, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    stalled: list[int] = []

    def once(method: str, path: str, number: int) -> str:
        if path.endswith("set-01.tar") and not stalled:
            stalled.append(number)
            return "stall"
        return ""

    proxy.fault = once
    with caplog.at_level(logging.WARNING):
        batches(index, stall_seconds=0.3)
    assert any("set-01.tar" in line and "nothing came for 0.3 s" in line for line in caplog.messages)


def test_an_expired_credential_stops_the_run_with_one_line(
    index: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "SECRETTOKEN")
    stores.forget()
    proxy.fault = lambda method, path, number: "expired" if path.endswith("set-02.tar") else ""
    with pytest.raises(UserError, match=r"set-02\.tar.*credentials have expired: renew them") as caught:
        batches(index)
    for text in (str(caught.value), *caplog.messages):
        assert "SECRET" not in text and "testing" not in text and "\n" not in text


def test_a_missing_object_stops_before_training(index: str) -> None:
    stores.delete(index.replace("set.json", "set-01.tar"))
    with pytest.raises(UserError, match=r"missing shard: .*set-01\.tar"):
        batches(index)


def test_an_object_of_another_size_stops_before_training(index: str) -> None:
    stores.put(index.replace("set.json", "set-01.tar"), b"other")
    with pytest.raises(UserError, match=r"another size.*set-01\.tar"):
        batches(index)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("same_size", [False, True])
def test_an_object_that_changes_in_mid_epoch_is_refused(
    index: str, folder: Path, tmp_path: Path, cached: bool, same_size: bool
) -> None:
    url = index.replace("set.json", "set-02.tar")
    words = r"set-02\.tar (changed after this run first read it|has \d+ bytes, its index says)"
    old = (folder / "set-02.tar").read_bytes()
    # A limit of nothing removes a copy from the cache as soon as another shard comes. The keys' bytes have equal sums.
    values: Any = {"cache": str(tmp_path / "cache"), "cache_gigabytes": 1e-9} if cached else {}
    config = DataConfig(index=index, transform=SMALL, batch_size=4, lanes=2, window=2, read_ahead=1, **values)
    with (
        Stream(config, seed=3) as stream,
        pytest.raises(UserError, match=words),
    ):
        for number, _ in enumerate(stream.batches()):
            if number == 12:
                changed = old.replace(b"s02-0003", b"s02-0030") if same_size else old + bytes(512)
                assert changed != old
                stores.put(url, changed)
            assert number < 60


def test_a_changed_object_is_copied_again_into_the_cache(index: str, folder: Path, tmp_path: Path) -> None:
    def keys() -> set[str]:
        found = batches(index, count=8, cache=str(tmp_path / "cache"))
        return {key for names, _ in found for key in names}

    assert "s02-0003" in keys()
    stores.put(
        index.replace("set.json", "set-02.tar"),
        (folder / "set-02.tar").read_bytes().replace(b"s02-0003", b"s02-0030"),
    )
    found = keys()
    assert "s02-0030" in found and "s02-0003" not in found


def test_few_requests(index: str, folder: Path, proxy: Proxy) -> None:
    """In streaming order a window is one request; every sample is fetched once, in few bytes more than it has."""
    proxy.requests.clear()
    proxy.bytes_sent = 0
    batches(index, count=6, lanes=1, window=48)
    assert proxy.count(".tar") <= 8
    assert proxy.bytes_sent < 4 * sum(path.stat().st_size for path in folder.iterdir())


def test_evaluation_reads_each_sample_once(index: str, proxy: Proxy) -> None:
    proxy.requests.clear()
    keys = [key for batch in every_sample(index, SMALL, batch_size=10) for key in batch.keys]
    assert len(set(keys)) == len(keys) == 48
    assert proxy.count(".tar") <= 1.2 * 48
