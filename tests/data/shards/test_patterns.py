"""Paths and patterns: what exists is taken as it is called, whatever signs its name has."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.index import main
from data.shards.loading import load_index
from data.shards.patterns import find_tars
from launch.command.cli import UserError
from tests.data.making import jpeg, picture_set, write_tar

ODD = ["set [1]", "a{b,c}", "x*y", "what?", "a b", "tilde~", "a::b", "[a-z]", "100%", "#1"]


def touched(folder: Path, *names: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return [str(folder / name) for name in sorted(names)]


@pytest.mark.parametrize("odd", ODD)
def test_what_exists_wins_over_what_it_means_as_a_pattern(tmp_path: Path, odd: str) -> None:
    there = touched(tmp_path / odd, "a-0.tar", "a-1.tar", f"{odd}.tar")
    for decoy in ("set 1", "ab", "ac", "xzy", "whats", "b"):
        touched(tmp_path / decoy, "a-0.tar")
    folder = tmp_path / odd
    assert find_tars(str(folder / f"{odd}.tar")) == [str(folder / f"{odd}.tar")]
    assert find_tars(str(folder)) == sorted(there)
    assert find_tars(str(folder / "a-*.tar")) == [name for name in there if "/a-" in name]
    assert find_tars(str(folder / "a-{0..1}.tar")) == [name for name in there if "/a-" in name]
    assert find_tars(str(folder / "a-[0].tar")) == [str(folder / "a-0.tar")]


def test_patterns_still_mean_what_they_did(tmp_path: Path) -> None:
    there = touched(tmp_path / "deep/er", "t-000.tar", "t-001.tar", "t-010.tar", "u.tgz", "notes.txt", ".hidden.tar")
    tars = there[2:5]
    assert find_tars(str(tmp_path / "deep/er/t-{000..001}.tar")) == tars[:2]
    assert find_tars(str(tmp_path / "**/t-*.tar")) == tars
    assert find_tars(str(tmp_path / "deep/er/t-0[01]0.tar")) == [tars[0], tars[2]]
    assert find_tars(str(tmp_path / "{deep,shallow}/er/t-000.tar")) == sorted(
        [tars[0], str(tmp_path / "shallow/er/t-000.tar")]
    )
    assert find_tars(f"{tars[0]}::{tars[2]}") == [tars[0], tars[2]]
    assert find_tars(f"file://{tars[0]}") == [tars[0]]
    assert find_tars(str(tmp_path / "deep/er")) == [*tars, there[5]]


def test_brackets_of_a_name_beside_a_star(tmp_path: Path) -> None:
    there = touched(tmp_path, "part [a]-0.tar", "part [a]-1.tar")
    assert find_tars(str(tmp_path / "part [a]-*.tar")) == there


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    there = touched(tmp_path / "sets", "a.tar")
    assert find_tars("~/sets/*.tar") == find_tars("~/sets") == find_tars("~/sets/a.tar") == there


def test_a_pattern_without_a_match_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source=.*\[x\]\*\.tar matches no tar"):
        find_tars(str(tmp_path / "[x]*.tar"), key="source")


def test_commands_take_a_folder_with_brackets(tmp_path: Path) -> None:
    folder = picture_set(tmp_path / "set [1] {a}", [3, 2]).parent
    for number, pattern in enumerate((folder, folder / "*.tar", folder / "set-0[01].tar")):
        out = tmp_path / f"out [{number}].json"
        assert main([str(pattern), str(out), "--hashes", "false"]) == 0
        assert load_index(out).sizes == [3, 2]


def test_an_index_whose_name_has_a_number_sign(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0", {"jpg": jpeg(0)})])
    assert main([str(tmp_path / "a.tar"), str(tmp_path / "take#2.json"), "--hashes", "false"]) == 0
    assert len(load_index(tmp_path / "take#2.json")) == 1
