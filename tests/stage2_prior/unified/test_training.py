"""Training unified priors by the command: resumed as uninterrupted, on two ranks as on one, in every strategy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.config import CodeDataConfig
from launch.command.cli import UserError
from launch.config import RunConfig
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.training import PriorOptimizerConfig, PriorTrainConfig
from stage2_prior.config.unified import UnifiedConfig
from stage2_prior.priors.build import load_prior
from stage2_prior.priors.unified import UnifiedPrior
from stage2_prior.train import train
from tests.distributed import run_distributed_test
from tests.stage2_prior.commands.test_train import train_killed_at
from tests.stage2_prior.unified.tiny import letters

SHARED = ("ddp", "fsdp2", "zero3")
"""Strategies that are tried; zero1 and zero2 are zero3's with weights left whole."""


def settings(place: Path, folder: Path, **changes: Any) -> PriorTrainConfig:
    pictures, texts = (str(place / name / "index.json") for name in ("pictures", "texts"))
    unified = UnifiedConfig(text_tokenizer=str(place / "tokenizer.json"), length=40)
    model = {"layers": 1, "width": 16, "heads": 2, "unified": unified, "normalise_losses": True, "z_loss": 1e-4}
    return PriorTrainConfig(
        run=RunConfig(
            **{"folder": str(folder), "trackers": [], "log_every": 1, "save_every": 2} | changes.pop("run", {})
        ),
        data=CodeDataConfig(
            **{"index": pictures, "mixture": {texts: 0.5}, "batch_size": 6, "threads": 1} | changes.pop("data", {})
        ),
        model=PriorModelConfig(kind="unified", **model | changes.pop("model", {})),  # type: ignore[arg-type]
        optimizer=PriorOptimizerConfig(learning_rate=5e-3, warmup=2, clip=0.5),
        **{"steps": 5, "evaluate_every": 5} | changes,
    )


def held_out(place: Path) -> dict[str, Any]:
    return {"held_out": str(place / "pictures" / "index.json")}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "prior" / "model.safetensors")


def logged(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_killed_and_resumed_is_bit_identical(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(settings(place, tmp_path / "whole", data=held_out(place))) == 0
    cut = settings(place, tmp_path / "cut", data=held_out(place))
    train_killed_at(cut, 3, monkeypatch)
    assert train(cut) == 0
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    (figures,) = logged(tmp_path / "whole", "eval")
    assert {"eval/bits_per_byte", "eval/text_bits_per_token", "eval/picture_bits_per_token"} <= figures.keys()
    prior = load_prior(tmp_path / "whole")
    assert isinstance(prior, UnifiedPrior) and list(prior.vocabulary.kinds) == ["text", "marks", "picture"]
    assert prior.vocabulary.text.get_vocab() == letters().get_vocab()


def on_two_ranks(place: Path, runs: Path) -> None:
    for strategy in SHARED:
        data = held_out(place) | {"micro_batch": 2}
        config = settings(place, runs / strategy, run={"strategy": strategy}, data=data, steps=3)
        assert train(config) == 0


def test_two_ranks_reach_the_losses_of_one_in_every_strategy(place: Path, tmp_path: Path) -> None:
    """Rows are packed by each rank, so that their numbers differ; micro-batches may be left without a row."""
    assert train(settings(place, tmp_path / "one", data=held_out(place), steps=3)) == 0
    run_distributed_test(on_two_ranks, args=(place, tmp_path), timeout=300)
    names = [name for name in logged(tmp_path / "one", "train")[0] if name.startswith("loss/")]
    assert sorted(names) == ["loss/marks_bits", "loss/picture_bits", "loss/text_bits", "loss/total"]
    for strategy in SHARED:
        for one, other in zip(logged(tmp_path / "one", "train"), logged(tmp_path / strategy, "train"), strict=True):
            assert [other[name] for name in names] == pytest.approx([one[name] for name in names], abs=2e-5), strategy
        one, other = (
            {k: v for k, v in logged(tmp_path / run, "eval")[-1].items() if k[:5] == "eval/"}
            for run in ("one", strategy)
        )
        assert other == pytest.approx(one, abs=1e-4), strategy
    one, other = weights(tmp_path / "one"), weights(tmp_path / "ddp")
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


def test_what_does_not_fit_is_refused_in_a_line(place: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"model.code_noise=0.1 is not supported with model.kind=unified: leave it out"
    ):
        PriorModelConfig(kind="unified", code_noise=0.1)
    with pytest.raises(ValueError, match=r"model.loss_weights is not supported with model.kind=masked: leave it out"):
        PriorModelConfig(kind="masked", loss_weights={"text": 1.0})
    config = settings(place, tmp_path / "run")
    with pytest.raises(ValueError, match="tokenizer is not set: give the released tokenizer that made the codes"):
        replace(config, model=PriorModelConfig())
    with pytest.raises(ValueError, match=r"model.lora_rank needs the weights of a text model: set init_text"):
        replace(config, model=replace(config.model, lora_rank=2))
    with pytest.raises(UserError, match="batch_size=1 gives the sets"):
        train(replace(config, data=replace(config.data, batch_size=1)))
