from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from launch.command.cli import UserError
from launch.files.downloads import fetched
from stage1_tokenizer.hub import main
from stage1_tokenizer.publishing.hub import push
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.publishing.hub_server import Hub, hub


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A stand-in for the Hub, which huggingface_hub takes for it."""
    with hub() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a release, of an untrained tokenizer."""
    place = tmp_path / "tiny"
    tiny.tokenizer().save_pretrained(place)
    (place / "metrics.json").write_text(json.dumps({"psnr": 12.5, "measured": {}}))
    (place / "README.md").write_text("---\nlicense: mit\n---\n\n# tiny\n")
    (place / "modeling_vqloom.py").write_text("raise SystemExit('never run')\n")
    return place


def test_pushed_and_fetched(server: Hub, folder: Path, tmp_path: Path):
    url = push(folder, "ours/tiny", private=True)
    assert url.startswith(f"{server.address}/ours/tiny/commit/")
    assert server.repos["ours/tiny"]["private"] is True
    assert server.files("ours/tiny", "main") == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert server.stored, "the weights went by LFS"
    loaded = Tokenizer.from_pretrained("ours/tiny")
    assert loaded.fingerprint == tiny.tokenizer().fingerprint
    x_BCHW = torch.rand(2, 1, 16, 16) * 2 - 1
    assert torch.equal(loaded.encode(x_BCHW), tiny.tokenizer().encode(x_BCHW))
    here = {path.name for path in (tmp_path / "cache").rglob("*") if path.suffix}
    assert "modeling_vqloom.py" not in here and "README.md" not in here and "model.safetensors" in here


def test_revisions(server: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main([str(folder), "ours/tiny"])
    first = capsys.readouterr().out.strip().rpartition("/")[2]
    other = tiny.tokenizer(seed=1)
    other.save_pretrained(folder)
    main([str(folder), "ours/tiny", "--revision", "v2"])
    assert Tokenizer.from_pretrained("ours/tiny").fingerprint == tiny.tokenizer().fingerprint
    assert Tokenizer.from_pretrained("ours/tiny", revision="v2").fingerprint == other.fingerprint
    assert Tokenizer.from_pretrained("ours/tiny", revision=first).fingerprint == tiny.tokenizer().fingerprint
    with pytest.raises(UserError, match="could not be fetched from the Hub at revision v3") as caught:
        Tokenizer.from_pretrained("ours/tiny", revision="v3")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="revision=v2 is for a name on the Hub"):
        Tokenizer.from_pretrained(folder, revision="v2")


def test_pickles_are_not_fetched_but_weights_in_folders_are(server: Hub, folder: Path):
    push(folder, "ours/tiny")
    files = server.files("ours/tiny", "main") | {"depth/model.safetensors": b"weights"}  # as of a depth prior
    server.commit("ours/tiny", "main", {**files, "pytorch_model.bin": b"\x80\x04.", "model.pt": b"\x80\x04."})
    place = fetched("ours/tiny")
    assert (place / "depth" / "model.safetensors").read_bytes() == b"weights"
    assert {path.name for path in place.iterdir()} == {
        "depth",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert not any("pytorch_model.bin" in line or "model.pt" in line for line in server.asked)


def test_missing_repositories_and_networks_are_reported(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="ours/none is no folder here, and could not be fetched") as caught:
        Tokenizer.from_pretrained("ours/none")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="give the folder") as caught:
        Tokenizer.from_pretrained("ours/tiny")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"push=ours/tiny failed at .*hf auth login.*stage1_tokenizer\.hub") as caught:
        push(folder, "ours/tiny")
    assert "\n" not in str(caught.value)


def test_an_endpoint_can_be_given(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    push(folder, "ours/tiny", endpoint=server.address)
    assert "model.safetensors" in server.files("ours/tiny", "main")
    (folder / "README.md").write_text("# no licence\n")
    with pytest.raises(UserError, match="names no licence"):
        push(folder, "ours/tiny", endpoint=server.address)
