"""The whole pipeline on a small set, from shards to the report; then again, reusing everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from launch.stages import runner
from launch.stages.listing import ROOT, PipelineConfig
from tests import forked
from tests.commands import call

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
    done = forked.call([sys.executable, "-m", *line, "--processes", "1"])
    assert done.returncode == 0, done.stderr


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.CompletedProcess[str]]:
    """The stages that were run, in forked processes; the priors' trainings without the launcher, to save time."""
    ended: list[subprocess.CompletedProcess[str]] = []

    def stage(line: list[str]) -> int:
        started = line.index("stage2_prior.train") if "stage2_prior.train" in line else 2
        ended.append(forked.call([*line[:2], *line[started:]]))
        return ended[-1].returncode

    monkeypatch.setattr(runner, "_run", stage)
    return ended


@pytest.mark.slow
def test_the_whole_pipeline_and_again(
    options: list[str], ended: list[subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*more: str) -> tuple[int, list[str], str]:
        return (*call("launch.pipeline", [*options, *more]), capsys.readouterr().out)

    code, errors, said = run()
    assert code == 0, f"{said}\n{errors}\n{ended[-1:]}"
    assert len(ended) == 11 and "launch.local" in ended[0].args
    out = Path(options[options.index("--out") + 1])
    assert said.splitlines()[-1] == f"quickstart: done, report at {out / 'report.html'}"
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

    code, errors, again = run()
    assert (code, len(ended)) == (0, 11), f"{again}\n{errors}"
    assert again.count("reused, it was done earlier with the same configuration") == 11
    assert again.splitlines()[-1] == said.splitlines()[-1]
    assert made == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}

    code, errors, _ = run("--processes", "2")
    assert (code, len(errors)) == (2, 1)
    assert "holds the tokenizer stage of another configuration" in errors[0]


def test_the_default_folder_names_what_differs() -> None:
    assert str(PipelineConfig(data="mnist").folder) == "runs/quickstart-mnist"
    assert str(PipelineConfig(data="emoji", processes=2, short=True).folder) == "runs/quickstart-emoji-2processes-short"
