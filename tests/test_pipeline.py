"""The whole pipeline on a small set, from shards to the report; then again, reusing everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from launch.stages.listing import ROOT, PipelineConfig

TOKENIZER = """
run: {folder: run, log_every: 2, trackers: []}
data:
  index: train.json
  batch_size: 8
  transform: {size: 32, channels: 1, fit: pad}
model:
  in_channels: 1
  channels: 16
  channel_multipliers: [1, 1, 1]
  res_blocks: 1
  attention: false
  z_channels: 8
  quantizer: {codebook_size: 16, code_dim: 4}
loss:
  perceptual: {fraction: 0.25}
  adversarial: {start: 2, channels: 8, layers: 1}
steps: 6
evaluate_samples: 8
"""

PRIOR = """
run: {folder: run, log_every: 2, trackers: []}
data: {batch_size: 8}
model: {layers: 1, width: 16, heads: 2}
steps: 6
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A pipeline over two small sets, cut from the digits that ship with the project."""
    folder = tmp_path_factory.mktemp("pipeline")
    recipe = folder / "recipe"
    recipe.mkdir()
    (recipe / "tokenizer.yaml").write_text(TOKENIZER)
    (recipe / "prior.yaml").write_text(PRIOR)
    small_set(folder)
    given = {"data": "digits", "recipe": recipe, "out": folder / "out", "count": 2, "masked": "true"}
    given |= {part: folder / "shards" / f"{part}.json" for part in ("train", "held_out")}
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def small_set(folder: Path) -> None:
    """A hundred of the digits that ship with the project, as pictures in class folders and packed into shards."""
    index = ROOT / "data" / "samples" / "mnist" / "train.json"
    transform = TransformConfig(size=28, channels=1, fit="pad")
    for batch in every_sample(str(index), transform, batch_size=20, limit=100):
        for name, label, pixels_CHW in zip(batch.keys, batch.label_B.tolist(), batch.pixels_BCHW.numpy(), strict=True):
            path = folder / "pictures" / str(label) / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels_CHW[0]).save(path)
    line = ["data.pack", str(folder / "pictures"), str(folder / "shards"), "--kind", "folder", "--held_out", "0.2"]
    subprocess.run([sys.executable, "-m", *line, "--processes", "1"], cwd=ROOT, check=True, capture_output=True)


def run(options: list[str]) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "launch.pipeline", *options]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environ, check=False)


@pytest.mark.slow
def test_the_whole_pipeline_and_again(options: list[str]) -> None:
    done = run(options)
    assert done.returncode == 0, done.stdout + done.stderr
    out = Path(options[options.index("--out") + 1])
    assert done.stdout.splitlines()[-1] == f"quickstart: done, report at {out / 'report.html'}"
    figures = json.loads((out / "metrics.json").read_text())
    assert {"psnr", "lpips", "codebook_usage"} <= set(figures["tokenizer"])
    assert 0 < figures["prior"]["bits_per_code"] < 20
    assert 0 <= figures["samples"]["class_agreement"] <= 1
    assert figures["samples"]["count"] == 20
    names = ["tokenizer", "release", "tokenizer-evaluation", "codes-train", "codes-held_out"]
    priors = ["prior", "samples", "prior-evaluation", "prior-masked", "samples-masked", "prior-masked-evaluation"]
    assert list(figures["seconds"]) == [*names, *priors, "total"]
    page = (out / "report.html").read_text()
    for shown in (
        "loss/nll_bits",
        "loss/commitment",
        "codes are used",
        "originals beside",
        "a sample of 7",
        "masked prior",
    ):
        assert shown in page, shown
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert made

    again = run(options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("reused, it was done earlier with the same configuration") == 11
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert made == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}

    other = run([*options, "--processes", "2"])
    assert other.returncode == 2
    assert "holds the tokenizer stage of another configuration" in other.stderr
    assert other.stderr.count("\n") == 1


def test_the_default_folder_names_what_differs() -> None:
    assert str(PipelineConfig(data="mnist").folder) == "runs/quickstart-mnist"
    assert str(PipelineConfig(data="emoji", processes=2, short=True).folder) == "runs/quickstart-emoji-2processes-short"
