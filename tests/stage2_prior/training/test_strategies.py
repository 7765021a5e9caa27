"""Ways of sharing a prior out (run.strategy): all reach the loss that one process does, and go on from each other.

All of it runs on one pair of processes, since starting them and DeepSpeed takes long. The whole matrix, on real
settings, is tests/benchmarks/strategies.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data.config import CodeDataConfig
from launch.command.exit_codes import STOPPED
from launch.config import RunConfig
from launch.run.starting import start_run
from launch.strategies.base import STRATEGIES
from launch.strategies.choose import share_out
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.training import PriorOptimizerConfig, PriorTrainConfig
from stage2_prior.priors import losses as losses_of_codes
from stage2_prior.priors.fused import install
from stage2_prior.train import train
from stage2_prior.training import loop as training
from stage2_prior.training.optimizer import PriorEma, build_optimizer
from tests.distributed import run_distributed_test
from tests.stage2_prior.commands.test_train import weights
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.priors.test_depth_and_multiscale import KINDS, codes_of, prior_of
from tests.stage2_prior.priors.test_heads import prior_of as head_prior

HEADS = ("factors", "bits", "masked-bits")
"""Names of priors in test_heads."""
TOLERANCE = 5e-6
"""Largest difference of any step's loss, of about 3 nats, from one process's: sums in another order, 50 steps long."""


def settings(coded: Coded, folder: Path, strategy: str | None = None, **changes: Any) -> PriorTrainConfig:
    run = {"log_every": 1, "save_every": 1000, "strategy": strategy} | changes.pop("run", {})
    micro_batch = changes.pop("micro_batch", 3)
    return PriorTrainConfig(
        run=RunConfig(folder=str(folder), trackers=[], **run),
        data=CodeDataConfig(index=coded.codes, held_out=coded.held_out_codes, batch_size=8, micro_batch=micro_batch),
        tokenizer=coded.tokenizer,
        **{
            "model": PriorModelConfig(layers=2, width=16, heads=2, class_dropout=0.3, code_noise=0.1),
            "optimizer": PriorOptimizerConfig(learning_rate=3e-3, warmup=3, clip=0.5),
            "steps": 50,
            "evaluate_every": 50,
            **changes,
        },
    )


def train_until(config: PriorTrainConfig, stop: int) -> int:
    """Train as if a signal came during the step before `stop`; the exit code."""
    real = training.train_step

    def step_and_stop(*args: Any) -> Any:
        if args[4] == stop - 1:
            args[5].request_stop()
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", step_and_stop)
        return train(config)


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    written = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return sorted((line for line in written if line["kind"] == kind), key=lambda line: line["step"])


def losses(folder: Path) -> list[float]:
    return [line["loss/total"] for line in lines(folder, "train")]


CHAIN = [*zip(STRATEGIES, (7, 14, 21, 28, 35), strict=True), ("zero1", 42)]


def on_a_rank(coded: Coded, place: Path) -> dict[str, list[list[float]]]:
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind in (*KINDS, *HEADS):
            found[kind] = []
            for strategy in STRATEGIES:
                patch.setattr(losses_of_codes, "MOST_LOGITS", 1 << 27 if strategy == "ddp" else 150)
                found[kind].append(few_steps(kind, strategy, place))
    for strategy in STRATEGIES:
        assert train(settings(coded, place / strategy, strategy)) == 0
    for strategy, stop in CHAIN:
        background = {"save_in_background": strategy in ("fsdp2", "zero3")}
        assert train_until(settings(coded, place / "chain", strategy, run=background), stop) == STOPPED
    return found


def few_steps(kind: str, strategy: str, place: Path) -> list[float]:
    """Losses of three steps of a prior of that kind, and then its bits on the averaged weights.

    All but DDP make them in chunks of few logits, by the layers that GPUs have.
    """
    config = RunConfig(folder=str(place / f"{kind}-{strategy}"), trackers=[], strategy=strategy)  # type: ignore[arg-type]
    with start_run(config, config, strategies=STRATEGIES) as this:
        prior = head_prior(kind, spread=1.0) if kind in HEADS else prior_of(kind, spread=1.0)
        if strategy != "ddp":
            install(prior, torch.device("cuda"))
        shared = share_out(prior, lambda model: build_optimizer(model, PriorOptimizerConfig()), this, clip=1.0)
        if strategy == "ddp":
            assert shared.module.gradient_as_bucket_view and not shared.module.broadcast_buffers
        ema, found = PriorEma(shared, 0.5), []
        code_BN, label_B = codes_of(prior, 4), torch.tensor([0, 1, 2, 0])
        rows = slice(this.rank * 2, this.rank * 2 + 2)
        for step in range(3):
            with shared.part(last=True), prior.sample_noise.of_batch(0, step, 4, rows):
                loss, _ = shared.module(code_BN[rows], label_B[rows])
                shared.backward(loss)
            shared.descend(0.01, 1.0)
            ema.update(step)
            found.append(float(this.sum(loss.detach())))
        with ema.applied(), torch.no_grad():
            nats_BN, _ = prior.score(code_BN, prior.vocabulary.class_tokens(label_B))
            found.append(float(nats_BN.mean()))
            whole = {name: weight.clone() for name, weight in shared.whole_weights()}
        found.append(float(sum(weight.double().abs().sum() for weight in whole.values())))
    return found


@pytest.fixture(scope="module")
def place(coded: Coded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strategies")
    found, _ = run_distributed_test(on_a_rank, 2, (coded, folder), timeout=300)
    (folder / "kinds.json").write_text(json.dumps(found))
    assert train(settings(coded, folder / "one")) == 0
    assert train(settings(coded, folder / "chain", run={"strategy": "ddp"})) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STRATEGIES, "chain"])
def test_two_ranks_reach_the_loss_of_one(place: Path, name: str):
    """The chain changes the strategy with every checkpoint, and ends on one rank."""
    expected, found = losses(place / "one"), losses(place / name)
    assert len(found) == len(expected) == 50
    assert expected[-1] < expected[0] - 0.3, "it learns"
    assert max(abs(a - b) for a, b in zip(expected, found, strict=True)) < TOLERANCE
    one, other = weights(place / "one"), weights(place / name)
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(other[key], one[key], atol=2e-4, rtol=0)
    (a,), (b,) = lines(place / "one", "eval"), lines(place / name, "eval")
    assert b["eval/bits_per_code"] == pytest.approx(a["eval/bits_per_code"], abs=1e-5)
    assert b["eval/accuracy"] == pytest.approx(a["eval/accuracy"], abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *HEADS])
def test_priors_of_several_levels_can_be_shared_out_too(place: Path, kind: str):
    first, *others = json.loads((place / "kinds.json").read_text())[kind]
    assert len(others) == len(STRATEGIES) - 1
    assert len(set(first)) == len(first)
    for other in others:
        assert other == pytest.approx(first, rel=2e-5)
