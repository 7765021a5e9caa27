"""The pipeline of a sample set that is made: what it packs, asks for, continues and measures."""

from __future__ import annotations

import json
from pathlib import Path

from launch.stages import figures
from launch.stages.jobs import NEEDS
from launch.stages.listing import PipelineConfig, stages
from tests.imports import ROOT


def test_moving_digits_are_made_sampled_by_prompts_and_continued(tmp_path: Path) -> None:
    listed = {stage.name: stage for stage in stages(PipelineConfig(data="moving_digits", out=str(tmp_path)))}
    assert list(listed) == ["data", *(name for name in NEEDS if name != "report")]
    data, train = tmp_path / "data", str(tmp_path / "data" / "train.json")
    assert listed["data"].module == "data.pack" and listed["data"].makes[0] == Path(train)
    assert listed["data"].arguments[1:4] == (str(data), "--kind", "moving_digits") and "MIT, see LICENSE" in str(listed)
    options = {name: dict(zip(one.arguments[::2], one.arguments[1::2], strict=True)) for name, one in listed.items()}
    assert options["tokenizer"]["--data.index"] == options["codes-train"]["--data"] == train
    assert options["tokenizer-evaluation"]["--videos"] == str(tmp_path / "evaluation" / "videos")
    assert options["samples"]["--count"] == "3" and options["samples"]["--prompts"].endswith(
        "moving_digits/prompts.txt"
    )
    last = options["prior-evaluation"]
    assert last["--predictions"] == options["prediction"]["--out"] == str(tmp_path / "prediction")
    assert "--reference" not in last and last["--data"] == train
    prompts = (ROOT / "launch" / "recipes" / "moving_digits" / "prompts.txt").read_text().splitlines()
    assert len(set(prompts)) == len(prompts) == 40


def test_figures_of_samples_and_predictions_are_told_apart(tmp_path: Path) -> None:
    config = PipelineConfig(data="moving_digits", out=str(tmp_path))
    found = {
        "bits_per_code": 1.5,
        "accuracy": 0.5,
        "digit_agreement": 0.9,
        "real_digit_accuracy": 0.98,
        "samples": 120,
        "prediction": {"direction_agreement": 0.95},
    }
    for name, values in (("tokenizer", {"psnr": 21.0}), ("prior", found)):
        (tmp_path / "evaluation").mkdir(exist_ok=True)
        (tmp_path / "evaluation" / f"{name}.json").write_text(json.dumps(values))
    figures.write(config, [])
    written = json.loads((tmp_path / figures.FILE).read_text())
    assert written["samples"] == {"digit_agreement": 0.9, "real_digit_accuracy": 0.98, "count": 120}
    assert written["prediction"] == {"direction_agreement": 0.95}
    assert written["prior"] == {"bits_per_code": 1.5, "accuracy": 0.5} and written["tokenizer"] == {"psnr": 21.0}
