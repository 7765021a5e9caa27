"""Folders that appear complete or not at all, and never over somebody else's files."""

from pathlib import Path

import pytest

from launch.files.atomic import new_folder


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with new_folder(out) as part:
        (part / "file").write_text("new")
    assert (out / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_files_that_came_during_the_work_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OSError, match="not empty"), new_folder(out) as part:
        (part / "file").write_text("new")
        out.mkdir()
        (out / "theirs").write_text("kept")
    assert [path.name for path in out.iterdir()] == ["theirs"]
    assert list(tmp_path.iterdir()) == [out]
