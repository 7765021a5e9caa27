"""The command `data.index`."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.index import main
from data.shards.index import offsets_path
from data.shards.loading import load_index
from launch.command.cli import UserError
from tests.data.making import picture_set
from tests.data.serving import served


def test_the_command_indexes_local_and_remote_tars_alike(tmp_path: Path) -> None:
    folder = picture_set(tmp_path / "set", [10, 17, 21]).parent
    names = tmp_path / "classes.txt"
    names.write_text("a\nb\nc\n")
    assert main([str(folder / "*.tar"), str(tmp_path / "local.json"), "--classes", str(names)]) == 0
    with served(folder) as server:
        assert main([f"{server.url}/set-{{00..02}}.tar", str(tmp_path / "remote.json")]) == 0
        remote = load_index(tmp_path / "remote.json")
        assert [shard.url for shard in remote.shards] == [f"{server.url}/set-0{i}.tar" for i in range(3)]
    local = load_index(tmp_path / "local.json")
    assert local.sizes == remote.sizes == [10, 17, 21] and local.classes == ["a", "b", "c"]
    assert [s.filesize for s in local.shards] == [s.filesize for s in remote.shards]
    assert offsets_path(tmp_path / "local.json").read_bytes() == offsets_path(tmp_path / "remote.json").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        main([str(folder / "*.tar"), str(tmp_path / "local.json")])
    with pytest.raises(UserError, match="matches no tar"):
        main([str(folder / "*.nothing"), str(tmp_path / "none.json")])
    with pytest.raises(UserError, match=r"missing\.tar"):
        main([str(folder / "missing.tar"), str(tmp_path / "none.json")])
