"""Remote shards: the batches of local ones, also through failing servers, caches, pipes and fsspec."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from data.reading.stream import every_code, every_sample
from data.shards.loading import load_index
from launch.command.cli import UserError
from tests.data.making import picture_set
from tests.data.serving import served
from tests.data.streaming import SMALL, batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = picture_set(tmp_path_factory.mktemp("remote"), [10, 17, 21])
    return path.parent


@pytest.fixture(scope="module")
def healthy(folder: Path) -> list[tuple[list[str], bytes]]:
    return batches(str(folder / "set.json"))


def test_http_gives_the_batches_of_local_shards_and_resumes(folder: Path, healthy: list) -> None:
    with served(folder) as server:
        assert batches(f"{server.url}/set.json") == healthy
        assert batches(f"{server.url}/set.json", start=9, count=5) == healthy[9:]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("offsets", [True, False])
def test_servers_without_ranges_and_indexes_without_offsets(
    folder: Path, healthy: list, ranges: bool, offsets: bool
) -> None:
    def fault(path: str, number: int) -> str:
        return "404" if path.endswith(".npz") and not offsets else ""

    with served(folder, fault, ranges=ranges) as server:
        assert batches(f"{server.url}/set.json") == healthy
        assert batches(f"{server.url}/set.json", start=5, count=9) == healthy[5:]


@pytest.mark.parametrize("how", ["503", "drop", "stall"])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("offsets", [True, False])
def test_a_failing_server_gives_the_batches_of_a_healthy_one(
    folder: Path, healthy: list, tmp_path: Path, how: str, cached: bool, offsets: bool
) -> None:
    def fault(path: str, number: int) -> str:
        if path.endswith(".npz") and not offsets:
            return "404"
        return how if path.endswith(".tar") and number % 3 == 0 else ""

    with served(folder, fault) as server:
        cache = str(tmp_path / "cache") if cached else None
        assert batches(f"{server.url}/set.json", count=5, cache=cache, stall_seconds=0.4, retries=30) == healthy[:5]


def test_every_failure_at_once(folder: Path, healthy: list) -> None:
    def fault(path: str, number: int) -> str:
        return ["", "503", "drop", "", "stall", "503", "drop", "drop"][number % 8] if path.endswith(".tar") else ""

    with served(folder, fault) as server:
        assert batches(f"{server.url}/set.json", stall_seconds=0.4, retries=30) == healthy


def test_a_stall_is_told_with_the_shards_name(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        served(folder, lambda path, number: "stall" if number == 4 else "") as server,
        caplog.at_level(logging.WARNING),
    ):
        batches(f"{server.url}/set.json", count=2, stall_seconds=0.2, retries=30)
    assert any("set-0" in line and "nothing came for 0.2 s" in line for line in caplog.messages)


@pytest.mark.parametrize(("how", "words"), [("503", "3 attempts failed .*503"), ("404", "HTTP status 404")])
def test_a_dead_server_stops_the_run_with_the_shards_name(folder: Path, how: str, words: str) -> None:
    with served(folder, lambda path, number: how if path.endswith("set-01.tar") else "") as server:  # noqa: SIM117
        with pytest.raises(UserError, match=rf"set-01\.tar.*{words}") as caught:
            batches(f"{server.url}/set.json", retries=3)
    assert "\n" not in str(caught.value)


def test_a_cached_shard_is_fetched_once(folder: Path, healthy: list, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with served(folder) as server:
        assert batches(f"{server.url}/set.json", cache=str(cache)) == healthy
        assert batches(f"{server.url}/set.json", cache=str(cache)) == healthy
        # A request for one byte tells each process which version is there.
        asked = sorted(path for path in server.requests if path.endswith(".tar"))
        assert asked == [f"/set-0{i}.tar" for i in range(3) for _ in range(3)]
        assert server.bytes_sent < 1.5 * sum(path.stat().st_size for path in folder.iterdir())
    assert len(list(cache.iterdir())) == 3


def test_the_cache_keeps_to_its_size(folder: Path, healthy: list, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    size = max(path.stat().st_size for path in folder.glob("*.tar"))
    with served(folder) as server:
        limit = size * 1.5 / 1e9
        assert batches(f"{server.url}/set.json", cache=str(cache), cache_gigabytes=limit) == healthy
    assert sum(path.stat().st_size for path in cache.iterdir()) <= size * 1.5


def test_evaluation_reads_each_remote_sample_once(folder: Path) -> None:
    with served(folder) as server:
        keys = [key for batch in every_sample(f"{server.url}/set.json", SMALL, batch_size=10) for key in batch.keys]
    assert keys == sorted(keys) and len(keys) == 48


def test_pipes_and_fsspec(folder: Path, healthy: list, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    listed: dict[str, list] = {"pipe": [], "memory": []}
    for path in sorted(folder.glob("*.tar")):
        memory.pipe_file(f"/shards/{path.name}", path.read_bytes())
        count = {"00": 10, "01": 17, "02": 21}[path.stem[-2:]]
        listed["pipe"].append({"url": f"pipe:cat {path}", "nsamples": count})
        listed["memory"].append({"url": f"memory://shards/{path.name}", "nsamples": count})
    classes = load_index(folder / "set.json").classes
    for name, shards in listed.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"shardlist": shards, "classes": classes}))
        assert batches(str(path)) == healthy, name


def test_signed_addresses_of_shards_are_never_shown(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither where samples are damaged nor where the server fails or the index is of another kind."""
    for path in folder.iterdir():
        contents = path.read_bytes()
        at = contents.find(b"\xff\xd8") if path.name == "set-00.tar" else -1
        (tmp_path / path.name).write_bytes(contents if at < 0 else contents[: at + 2] + bytes(40) + contents[at + 42 :])
    values = json.loads((tmp_path / "set.json").read_text())
    shown = []
    with served(tmp_path, lambda path, number: "503" if number % 5 == 0 and ".tar" in path else "") as server:
        for shard in values["shardlist"]:
            shard["url"] = f"{server.url}/{shard['url']}?X-Amz-Signature=SECRET"
        (tmp_path / "set.json").write_text(json.dumps(values))
        index = f"{server.url}/set.json?X-Amz-Signature=SECRET"
        with caplog.at_level(logging.INFO):
            batches(index, count=6, retries=30)
            with pytest.raises(UserError) as caught:
                batches(index, count=6, max_damaged=0.0)
            shown.append(str(caught.value))
            with pytest.raises(UserError) as caught:
                next(iter(every_code(index, batch_size=4)))
            shown.append(str(caught.value))
    assert "set-00.tar" in shown[0] and "set.json" in shown[1]
    assert any("damaged" in line for line in caplog.messages) and any("503" in line for line in caplog.messages)
    assert not any("SECRET" in text for text in (*shown, *caplog.messages))
