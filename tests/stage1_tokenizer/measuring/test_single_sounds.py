"""Sound files of any rate, length and number of channels, and their reconstructions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile")

from data.sounds.config import SoundConfig
from data.sounds.convert import encode
from data.sounds.files import SoundFile
from launch.command.cli import UserError
from stage1_tokenizer.measuring.single_sounds import measure_sound
from stage1_tokenizer.reconstruct import main
from tests.stage1_tokenizer.networks.test_sound_networks import tokenizer_of


@pytest.fixture(params=["encodec", "snac"])
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tokenizer = tokenizer_of(request.param)
    tokenizer.transform = SoundConfig(sample_rate=8000, length=480)
    tokenizer.save_pretrained(tmp_path / "released")
    return tmp_path / "released"


def written(folder: Path, name: str, samples: int, rate: int, channels: int = 1) -> Path:
    at_T = np.arange(samples) / rate
    x_CT = 0.4 * np.sin(2 * np.pi * 440 * at_T)[None].repeat(channels, 0).astype(np.float32)
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(encode(x_CT, rate, "wav" if name.endswith("wav") else "flac"))
    return folder / name


def test_sounds_of_any_form_are_reconstructed_whole(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "in", "one.flac", 1, 8000)
    written(tmp_path / "in", "stereo.wav", 4001, 16000, channels=2)
    out = tmp_path / "out"
    main([str(tmp_path / "in"), "--tokenizer", str(released), "--out", str(out)])
    found = json.loads((out / "reconstructions.json").read_text())
    assert [row["file"] for row in found["sounds"]] == ["one.flac", "stereo.wav"]
    one, stereo = found["sounds"]
    assert "si_sdr" not in one and stereo["si_sdr"] < 100
    assert stereo["seconds"] == pytest.approx(0.25, rel=1e-3) and stereo["code_bytes"] > one["code_bytes"]
    with SoundFile((out / "stereo.flac").read_bytes()) as file:
        assert (file.rate, file.channels) == (8000, 1) and abs(file.frames - 2000) <= 1
    assert (out / "one.png").is_file() and "stereo.wav" in capsys.readouterr().out


def test_the_bytes_of_shared_codes_count_once() -> None:
    tokenizer = tokenizer_of("snac")
    tokenizer.transform = SoundConfig(sample_rate=8000, length=480)
    row, y_BCT = measure_sound(tokenizer, torch.zeros(1, 1, 90))  # 15 frames of 6 samples, so 16
    assert row["codes"] == 4 + 8 + 16 and y_BCT.shape == (1, 1, 90)


def test_what_is_no_sound_is_refused(released: Path, tmp_path: Path) -> None:
    (tmp_path / "text.flac").write_text("no sound")
    words = ["--tokenizer", str(released), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"text\.flac can't be used as a sound"):
        main([str(tmp_path / "text.flac"), *words])
    with pytest.raises(UserError, match="a folder without sounds"):
        main([str(released), *words])
    with pytest.raises(UserError, match="trained_size=true is for pictures"):
        main([str(tmp_path / "text.flac"), *words, "--trained_size", "true"])
    assert not (tmp_path / "out").exists()
