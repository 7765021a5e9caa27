"""What a prior's training logs doesn't depend on the number of ranks: two log, name by name, what one logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.run import metrics
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.train import train
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer.training.test_logged_figures import OF_THE_MACHINE
from tests.stage2_prior.commands.test_train import settings
from tests.stage2_prior.conftest import Coded

MODELS: dict[str, dict[str, Any]] = {
    "autoregressive": {"code_noise": 0.1},
    "random order": {"order": "random"},
    "masked": {"kind": "masked"},
}
"""With noise, which is a function of the step and the sample's place in the global batch."""


def trained(coded: Coded, folder: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of a short training of each model, on all ranks."""
    found = {}
    for name, changes in MODELS.items():
        model = PriorModelConfig(layers=1, width=16, heads=2, class_dropout=0.3, **changes)
        place = Path(folder) / name.replace(" ", "_")
        assert train(settings(coded, place, model=model, steps=6, evaluate_every=3)) == 0
        found[name] = metrics.read(place / metrics.FILE)
    return found


def test_two_ranks_log_what_one_does(coded: Coded, tmp_path: Path) -> None:
    one = trained(coded, str(tmp_path / "one"))
    two = run_distributed_test(trained, 2, [coded, str(tmp_path / "two")], timeout=300)[0]
    different = []
    for model in MODELS:
        assert [line["kind"] for line in one[model]] == [line["kind"] for line in two[model]]
        assert "eval" in [line["kind"] for line in one[model]]
        for first, second in zip(one[model], two[model], strict=True):
            names = [{name for name in line if not name.startswith(OF_THE_MACHINE)} for line in (first, second)]
            assert names[0] == names[1]
            for name in sorted(names[0] - {"kind", "model/peak_flops"}):
                if second[name] != pytest.approx(first[name], rel=2e-3, abs=1e-5):
                    different.append((model, first["step"], name, first[name], second[name]))
    assert not different
