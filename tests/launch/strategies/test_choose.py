"""Which strategy a start asks for, and the files of accelerate and DeepSpeed that ask for one."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from launch.command.cli import UserError
from launch.config import RunConfig
from launch.ranks.launcher import CONFIGS
from launch.ranks.start import strategy
from launch.run.starting import start_run
from launch.strategies.base import STRATEGIES, blocks, fill_moments
from launch.strategies.choose import share_out
from launch.strategies.zero import FILES, settings


def config(tmp_path: Path, **changes: Any) -> RunConfig:
    return RunConfig(str(tmp_path), trackers=[], **changes)


def launched(name: str) -> dict[str, str]:
    """What accelerate launch sets for one of our files."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    line = ["--config_file", str(CONFIGS / f"{name}.yaml"), "--num_processes", "2", "x.py"]
    options: argparse.Namespace = launch_command_parser().parse_args(line)
    before = dict(os.environ)
    options, _, _ = _validate_launch_command(options)
    os.environ.clear()
    os.environ.update(before)
    options.deepspeed_fields_from_accelerate_config = ""  # what launch_command would add
    return prepare_deepspeed_cmd_env(options)[1] if options.use_deepspeed else prepare_multi_gpu_env(options)


@pytest.mark.parametrize("name", ["fsdp2", "zero1", "zero2", "zero3"])
def test_the_accelerate_file_names_the_strategy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in launched(name).items():
        if key.startswith(("ACCELERATE_USE", "ACCELERATE_DEEPSPEED", "FSDP_")):
            monkeypatch.setenv(key, value)
    assert strategy(config(tmp_path)) == name
    assert strategy(config(tmp_path, strategy=name)) == name
    with pytest.raises(UserError, match=rf"run\.strategy=ddp but accelerate launch was given a file for {name}"):
        strategy(config(tmp_path, strategy="ddp"))


def test_what_a_file_asks_for_and_is_not_done_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert strategy(config(tmp_path)) == "ddp"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(UserError, match="fsdp_offload_params=true is not supported"):
        strategy(config(tmp_path))
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "none.json"))
    with pytest.raises(UserError, match=r"none\.json can't be read"):
        strategy(config(tmp_path))


def test_a_command_without_a_strategy_refuses_it(tmp_path: Path) -> None:
    asked = config(tmp_path / "run", strategy="zero2")
    with (
        pytest.raises(UserError, match=r"strategy=zero2 is not supported by this command"),
        start_run(asked, asked),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_deepspeed_takes_its_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    written = settings(name)
    found = DeepSpeedConfig({**written, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1})
    assert f"zero{found.zero_optimization_stage}" == name
    assert found.zero_config.reduce_bucket_size == written["zero_optimization"]["reduce_bucket_size"]


def test_every_strategy_has_its_files() -> None:
    for name in STRATEGIES[1:]:
        written = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        if name != "fsdp2":
            file = Path(written["deepspeed_config"]["deepspeed_config_file"])
            assert file == Path("launch/deepspeed") / f"{name}.json"
            assert f"zero{json.loads((FILES / file.name).read_text())['zero_optimization']['stage']}" == name


def test_on_one_rank_the_strategy_has_no_effect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = config(tmp_path, strategy="zero3")
    with start_run(asked, asked, strategies=STRATEGIES) as run:
        shared = share_out(torch.nn.Linear(2, 2), lambda model: torch.optim.AdamW(model.parameters(), fused=True), run)
        shared.backward(shared.module(torch.ones(1, 2)).sum())
        assert float(shared.descend(0.1, 0.0)[0]) > 0
    assert shared.everywhere
    assert "only one rank, so run.strategy=zero3 has no effect" in capsys.readouterr().err


def test_moments_are_those_of_a_first_step() -> None:
    plain, filled = (torch.nn.Linear(2, 2) for _ in range(2))
    filled.load_state_dict(plain.state_dict())
    optimizers = [torch.optim.AdamW(model.parameters(), fused=True) for model in (plain, filled)]
    fill_moments(optimizers[1])
    for model, optimizer in zip((plain, filled), optimizers, strict=True):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert torch.equal(plain.weight, filled.weight)
    states = [optimizer.state[model.weight] for model, optimizer in zip((plain, filled), optimizers, strict=True)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) and states[0][key].dtype == states[1][key].dtype
               for key in states[0])  # fmt: skip


def test_blocks_are_the_outermost_repeated_layers() -> None:
    inner = torch.nn.Module()
    inner.parts = torch.nn.ModuleList([torch.nn.Linear(1, 1)])
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Sequential(torch.nn.ModuleList([inner, inner])))
    assert blocks(model) == [inner, inner]
