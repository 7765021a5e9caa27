"""The race, for seconds, with tiny networks and stand-ins for the peers: everything that it writes is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.benchmarks.race.__main__ import main as race_command
from tests.benchmarks.race.report import share_of_time
from tests.benchmarks.race.settings import Race, differences

ROOT = Path(__file__).parents[2]
TOKENIZER = """
run: {folder: here}
data:
  index: here
  batch_size: 4
  threads: 1
  transform: {size: 16, channels: 3, fit: crop, flip: true}
model:
  channels: 8
  channel_multipliers: [1, 1]
  res_blocks: 1
  z_channels: 8
  quantizer: {codebook_size: 32, code_dim: 4}
loss: {adversarial: {channels: 8, layers: 1, start: 50}}
steps: 100
"""
PRIOR = """
run: {folder: here}
tokenizer: here
data: {index: here, batch_size: 8}
model: {layers: 1, width: 16, heads: 2}
steps: 100
"""


@pytest.fixture
def race_words(tmp_path: Path) -> list[str]:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "tokenizer.yaml").write_text(TOKENIZER)
    (recipe / "prior.yaml").write_text(PRIOR)
    samples = ROOT / "data" / "samples" / "emoji"
    options = {
        "peer": Path(__file__).parent / "stand_ins", "recipe": recipe, "out": tmp_path / "race",
        "data": samples / "held_out.json", "held_out": samples / "held_out.json", "minutes": 0.03,
        "prior-minutes": 0.03, "slice_seconds": 0.6, "moments": 3, "pictures": 20, "samples": 18, "threads": 1,
    }  # fmt: skip
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
def test_a_short_race_measures_everybody_and_can_be_continued(
    race_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, out = [sys.executable, "-m", "tests.benchmarks.race", *race_words], tmp_path / "race"
    for more in (["--tokenizer-only"], []):  # the priors join later
        done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "taming: " not in done.stdout  # nothing was left to train
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["final"]) == {"ours", "taming", "llamagen"}
    assert all(set(found) >= {"psnr", "lpips", "frechet", "steps"} for found in result["final"].values())
    assert {name: set(found) for name, found in result["time_to_final"].items()} == {
        "lpips": {"taming", "llamagen"}, "frechet_vgg16": {"taming", "llamagen"},
    }  # fmt: skip
    for found in result["prior"].values():
        at = {
            name.rpartition("_at_")[2]: value for name, value in found.items() if name.startswith("frechet_vgg16_at_")
        }
        assert found["frechet"] == min(at.values()) == at[f"{found['guidance']:g}"] > 0
        assert 0 <= found["class_agreement"] <= 1
    assert json.loads((out / "result.json").read_text()) == result
    for name in ("ours", "taming", "llamagen"):
        kept = json.loads((out / name / "curve.json").read_text())
        seconds = [moment["seconds"] for moment in kept["curve"]]
        assert len(seconds) == 3
        assert seconds == sorted(seconds)
        assert kept["seconds"] <= 1.8 + 1
    for picture, least in {"curves.png": 100, "pictures.png": 100, "samples.png": 60}.items():
        assert min(Image.open(out / picture).size) > least
    assert "not reached" in (out / "table.md").read_text() or "of its time" in (out / "table.md").read_text()
    assert "Adam's betas" in (out / "settings.md").read_text()
    monkeypatch.setattr(sys, "argv", ["race", *race_words, "--rate", "1e-5"])
    with pytest.raises(SystemExit, match="other settings"):
        race_command()


def test_time_to_a_final_figure_is_linear_between_moments() -> None:
    ours = [{"seconds": 10.0, "lpips": 0.6}, {"seconds": 20.0, "lpips": 0.4}, {"seconds": 30.0, "lpips": 0.3}]
    theirs = [{"seconds": 40.0, "lpips": 0.5}]
    assert share_of_time(ours, theirs, "lpips") == 15 / 40
    assert share_of_time(ours, [{"seconds": 40.0, "lpips": 0.7}], "lpips") == 10 / 40
    assert share_of_time(ours, [{"seconds": 40.0, "lpips": 0.2}], "lpips") is None


def test_schedules_keep_their_share_of_the_steps() -> None:
    recipe = str(ROOT / "launch" / "recipes" / "cifar10" / "tokenizer.yaml")
    race = Race("out", recipe, "", "data.json", "held_out.json", "peers", 1.0, 1.0)
    config, scaled = race.config(), race.config(600)
    assert scaled.steps == 600
    assert scaled.loss.adversarial.start / 600 == config.loss.adversarial.start / config.steps
    assert scaled.optimizer.warmup == config.optimizer.warmup // 100
    assert 1 - scaled.optimizer.ema_decay == pytest.approx(100 * (1 - config.optimizer.ema_decay))
    assert {row[0] for row in differences(race)} >= {"learning rate", "pixel loss", "discriminator"}
