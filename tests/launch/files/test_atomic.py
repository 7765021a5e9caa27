"""Folders that appear complete or not at all, and never over somebody else's files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


def test_weights_can_be_read_by_whoever_reads_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "release"
    with new_folder(out) as part:
        (part / "decoder").mkdir()
        (part / "config.json").write_text("{}")
        save_file({"weight": torch.zeros(1)}, part / "decoder" / "model.safetensors")
    modes = {path.stat().st_mode for path in out.rglob("*") if path.is_file()}
    assert len(modes) == 1 and not (out / ".mode").exists()
