"""The pipeline of a sample set that is made: what it packs, asks for, continues and measures."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from data.packing.sources.composed import sentence, sentences_of
from launch.command.cli import UserError
from launch.stages import figures
from launch.stages.jobs import BY_CHOICE, NEEDS
from launch.stages.listing import PipelineConfig, stages
from launch.stages.unified import SHOWN
from tests.imports import ROOT


def test_moving_digits_are_made_sampled_by_prompts_and_continued(tmp_path: Path) -> None:
    listed = {stage.name: stage for stage in stages(PipelineConfig(data="moving_digits", out=str(tmp_path)))}
    assert list(listed) == ["data", *(name for name in NEEDS if name not in ("report", *BY_CHOICE))]
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


def test_a_unified_prior_has_a_tokenizer_of_texts_and_describes(tmp_path: Path) -> None:
    listed = {stage.name: stage for stage in stages(PipelineConfig(data="captioned_digits", out=str(tmp_path)))}
    without = {"report", "prediction", *BY_CHOICE} - {"text-tokenizer", "captions"}
    assert list(listed) == ["data", *(name for name in NEEDS if name not in without)]
    texts, held_out = listed["text-tokenizer"], str(tmp_path / "data" / "held_out.json")
    assert ("--data", str(tmp_path / "codes" / "train" / "index.json")) in pairs(texts.arguments)
    assert ("--model.unified.text_tokenizer", str(texts.makes[0])) in pairs(listed["prior"].arguments)
    assert listed["captions"].arguments[0] == held_out
    assert ("--limit", str(SHOWN)) in pairs(listed["captions"].arguments)
    assert ("--count", "2") in pairs(listed["samples"].arguments)
    assert "--reference" not in listed["prior-evaluation"].arguments
    prompts = (ROOT / "launch" / "recipes" / "captioned_digits" / "prompts.txt").read_text().splitlines()
    assert len(prompts) == 100 and set(prompts) <= {sentence(chosen) for chosen in sentences_of("held_out")}
    named = {stage.name: stage for stage in stages(PipelineConfig(data="named_emoji", out=str(tmp_path)))}
    assert {("--kind", "tars"), ("--captions", "data/samples/emoji/names.json")} <= set(pairs(named["data"].arguments))
    evaluated = set(named["prior-evaluation"].arguments)
    assert "--reference" in evaluated and "--data" not in evaluated
    with pytest.raises(UserError, match="masked=true is not supported"):
        stages(PipelineConfig(data="captioned_digits", masked=True))


def pairs(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each word with the one after it."""
    return list(pairwise(words))


def test_a_sample_sets_recipe_is_not_trained_on_another_set() -> None:
    recipe = str(ROOT / "launch" / "recipes" / "captioned_digits")
    with pytest.raises(ValueError, match="is for the sample set captioned_digits, not for data=mnist: set data="):
        PipelineConfig(recipe=recipe)
    PipelineConfig(recipe=recipe, data="captioned_digits")
    PipelineConfig(recipe=recipe, train="own.json", held_out="own.json")


def test_figures_of_samples_and_predictions_are_told_apart(tmp_path: Path) -> None:
    config = PipelineConfig(data="moving_digits", out=str(tmp_path))
    found = {
        "bits_per_code": 1.5,
        "accuracy": 0.5,
        "digit_agreement": 0.9,
        "real_digit_accuracy": 0.98,
        "samples": 120,
        "prediction": {"direction_agreement": 0.95},
        "agreement": 0.8,
        "text": {"bits_per_byte": 0.3},
        "captions": {"exact_match": 0.7},
        "retrieval": {"text_to_picture": 0.8},
    }
    for name, values in (("tokenizer", {"psnr": 21.0}), ("prior", found)):
        (tmp_path / "evaluation").mkdir(exist_ok=True)
        (tmp_path / "evaluation" / f"{name}.json").write_text(json.dumps(values))
    figures.write(config, [])
    written = json.loads((tmp_path / figures.FILE).read_text())
    samples = {"agreement": 0.8, "digit_agreement": 0.9, "real_digit_accuracy": 0.98, "count": 120}
    assert written["samples"] == samples
    for name in ("text", "captions", "retrieval"):
        assert written[name] == found[name]
    assert written["prediction"] == {"direction_agreement": 0.95}
    assert written["prior"] == {"bits_per_code": 1.5, "accuracy": 0.5} and written["tokenizer"] == {"psnr": 21.0}
