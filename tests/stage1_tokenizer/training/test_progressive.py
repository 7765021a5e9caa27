"""Progressive resolution: small pictures first, the same however often a run is interrupted; where it is refused."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from launch.command.cli import UserError, parse
from launch.command.exit_codes import STOPPED
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.train import train
from stage1_tokenizer.training import loop
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.training.test_resume import Signals, assert_same_bits

EARLY: dict[str, Any] = {"data__early_steps": 3, "data__early_size": 8, "steps": 6, "loss__adversarial__start": 4}
PLACES = {"data__index": tiny.ROOT / tiny.TRAIN, "data__held_out": tiny.ROOT / tiny.HELD_OUT}


def settings(folder: Path, **changes: Any) -> TokenizerTrainConfig:
    return parse(TokenizerTrainConfig, tiny.arguments(folder, **EARLY | PLACES | changes), prog="test")


def test_a_run_begins_with_small_pictures_and_resumes_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    step = loop.train_step

    def noted(*args: Any, **beside: Any) -> Any:
        seen.append(args[2].shape[-1])
        return step(*args, **beside)

    monkeypatch.setattr(loop, "train_step", noted)
    assert train(settings(tmp_path / "whole")) == 0
    assert seen == [8, 8, 8, 16, 16, 16]
    with monkeypatch.context() as patch:
        Signals(patch, signal.SIGTERM, 1)
        assert train(settings(tmp_path / "stopped")) == STOPPED
    assert train(settings(tmp_path / "stopped")) == 0
    assert seen[6:] == seen[:6]
    assert_same_bits(tmp_path / "stopped", tmp_path / "whole", steps=6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data__early_size": "null"}, r"data\.early_steps=3 needs data\.early_size, a size below .*=16, not None"),
        ({"data__early_size": 16}, r"data\.early_steps=3 needs data\.early_size, a size below .*=16, not 16"),
        ({"data__early_steps": -1}, r"data\.early_steps=-1 is out of range"),
        ({"steps": 3}, r"data\.early_steps=3 is out of range: set it to fewer than steps=3, or to 0"),
        ({"data__early_size": 7}, r"data\.early_size=7 .* a multiple of 2, the model's stride$"),
        ({"loss__perceptual__weight": 1}, r"data\.early_size=8 .* a multiple of 2, .*, from 16 on \(LPIPS\)"),
        ({"loss__adversarial__start": 2}, r"start=2 of loss\.adversarial is before .*: set it to 3 or more"),
        ({"loss__semantic__weight": 1, "loss__semantic__network": "any"}, r"not supported with loss\.semantic\.weight"),
        ({"cuda_graph": "true"}, r"not supported with cuda_graph=true"),
        ({"data__codes": "codes.json"}, r"not supported with data\.codes"),
        ({"model__backbone": "vit", "model__vit__size": 16, "model__vit__patch": 4}, r"with model\.backbone=vit"),
    ],
)
def test_what_has_one_size_only_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        settings(tmp_path, **changes)
