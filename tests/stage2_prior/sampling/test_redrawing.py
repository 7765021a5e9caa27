"""Stored codes drawn again: which stay, what the others are, and where they are written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.reading.stream import every_code
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.command.cli import UserError
from stage2_prior.codes.shares import join
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import TextConfig
from stage2_prior.config.redrawing import RedrawConfig
from stage2_prior.priors.base import Prior
from stage2_prior.redraw import redraw
from stage2_prior.sampling.redrawing import Redrawing, Stored, uniform_numbers
from tests.stage2_prior.conftest import Coded, Trained
from tests.stage2_prior.priors.test_depth_and_multiscale import prior_of
from tests.stage2_prior.priors.test_levels import SOUNDS
from tests.stage2_prior.tiny import CODES, TEXTS, random_codes, tiny_prior

PRIORS: dict[str, dict[str, Any]] = {
    "autoregressive": {},
    "masked": {"kind": "masked"},
    "none": {"condition": "none"},
    "text": {"condition": "text", "text": TextConfig(tokens=4, layers=1)},
    "delay": {"kind": "delay", "source": SOUNDS},
    "depth": {"kind": "depth", "source": SOUNDS},
    "multiscale": {"kind": "multiscale"},
}


def of(prior: Prior, **settings: Any) -> Redrawing:
    """A redrawing by a prior, of no stored codes yet."""
    meta = {**prior.source.to_dict(), "captions": 1}
    index = ShardIndex((), kind="codes", meta=meta, classes=list(prior.vocabulary.classes))
    config = RedrawConfig(**{"prior": "", "codes": "", "out": "nowhere", "batch_size": 4, "steps": 3} | settings)
    return Redrawing(config, prior, index, index)


def stored(prior: Prior, count: int) -> list[Stored]:
    generator = torch.Generator().manual_seed(1)
    idx_BN = torch.randint(CODES, (count, *prior.source.shape), generator=generator)
    return [Stored(f"key-{row}", row % 3, TEXTS[row % 3], idx_hw) for row, idx_hw in enumerate(idx_BN)]


def read(path: str | Path) -> tuple[list[str], Tensor, Tensor, list[str]]:
    batches = list(every_code(str(path), batch_size=16))
    keys, texts = ([one for batch in batches for one in getattr(batch, name)] for name in ("keys", "captions"))
    codes, labels = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("idx_Bhw", "label_B"))
    return keys, codes, labels, texts


@pytest.mark.parametrize("name", PRIORS)
def test_every_kind_of_prior_keeps_all_some_or_none_of_the_true_codes(name: str):
    prior = prior_of("multiscale") if name == "multiscale" else tiny_prior(**PRIORS[name])
    rows = stored(prior, 3)
    true = torch.stack([row.idx_hw for row in rows])
    assert torch.equal(of(prior, true_share=1.0).draw(rows, 0), true)

    drawn = of(prior, true_share=0.0).draw(rows, 0)
    drawing, four = Drawing(steps=3), [*rows, rows[0]]  # a batch of 4
    own = prior.draws(drawing)
    uniform_BU = torch.stack([uniform_numbers(0, 0, row.key, own + prior.source.positions)[:own] for row in four])
    condition = prior.condition
    token_B = condition.of_texts([row.caption for row in four]) if condition.prefix else None
    token_B = condition.of_labels(torch.tensor([row.label for row in four])) if token_B is None else token_B
    expected = prior.sample(token_B, uniform_BU.contiguous(), drawing)[:3]
    assert torch.equal(drawn.flatten(1), expected)

    kept = torch.stack([uniform_numbers(0, 0, row.key, own + prior.source.positions)[own:] for row in rows]) < 0.7
    some = of(prior, true_share=0.7).draw(rows, 0).flatten(1)
    assert torch.equal(some[kept], true.flatten(1)[kept]) and not torch.equal(some, true.flatten(1))


def test_what_stays_is_binomial_and_a_function_of_seed_shard_and_key():
    share, count = 0.7, 40_000
    kept = uniform_numbers(3, 5, "key", count) < share
    assert abs(int(kept.sum()) - share * count) < 4 * math.sqrt(count * share * (1 - share))
    for other in ((4, 5, "key"), (3, 6, "key"), (3, 5, "key2")):
        assert not torch.equal(kept, uniform_numbers(*other, count) < share)
    assert torch.equal(kept, uniform_numbers(3, 5, "key", count) < share)


def test_the_prior_sees_what_stays():
    prior = tiny_prior()
    a, b = Stored("same", 0, "", random_codes(1, 1).view(3, 4)), Stored("same", 0, "", random_codes(1, 2).view(3, 4))
    one, other = (of(prior, true_share=0.5).draw([row], 0).flatten() for row in (a, b))
    open_N = uniform_numbers(0, 0, "same", 24)[12:] >= 0.5
    assert open_N.any() and not torch.equal(one[open_N], other[open_N])


@pytest.fixture(scope="module")
def options(coded: Coded, trained: Trained) -> RedrawConfig:
    return RedrawConfig(prior=trained.prior, codes=coded.codes, out="", batch_size=7, seed=2)


def test_the_command_writes_code_shards_with_the_stored_keys(coded: Coded, options: RedrawConfig, tmp_path: Path):
    assert redraw(replace(options, out=str(tmp_path / "all"), true_share=1.0)) == 0
    for one, other in zip(read(coded.codes), read(tmp_path / "all" / "index.json"), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other

    assert redraw(replace(options, out=str(tmp_path / "some"), true_share=0.5)) == 0
    before, after = read(coded.codes), read(tmp_path / "some" / "index.json")
    assert before[0] == after[0] and torch.equal(before[2], after[2])
    index, old = load_index(str(tmp_path / "some" / "index.json")), load_index(coded.codes)
    assert index.sizes == old.sizes and index.meta["data"] == old.meta["data"] and index.classes == old.classes
    assert index.meta["redrawn"]["true_share"] == 0.5 and index.meta["redrawn"]["drawing"] == {}
    assert sum(index.meta["histogram"]) == after[1].numel() and 0.2 < (before[1] == after[1]).float().mean() < 0.9


def test_parts_and_a_second_start_give_the_same_codes(
    options: RedrawConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert redraw(replace(options, out=str(tmp_path / "once"))) == 0
    for part in range(2):
        assert redraw(replace(options, out=str(tmp_path / "parts"), part=part, parts=2)) == 0
    join(str(tmp_path / "parts"), 2)
    whole, drawn = Redrawing.shard, []

    def interrupted(self: Redrawing, shard: int, bar: Any) -> None:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(shard)
        whole(self, shard, bar)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Redrawing, "shard", interrupted)
        redraw(replace(options, out=str(tmp_path / "twice")))
    with pytest.raises(UserError, match="made with another"):
        redraw(replace(options, out=str(tmp_path / "twice"), true_share=0.1))
    assert redraw(replace(options, out=str(tmp_path / "twice"))) == 0
    once = read(tmp_path / "once" / "index.json")
    for name in ("parts", "twice"):
        other = read(tmp_path / name / "index.json")
        assert once[0] == other[0] and torch.equal(once[1], other[1])
        histograms = [load_index(str(tmp_path / each / "index.json")).meta["histogram"] for each in ("once", name)]
        assert histograms[0] == histograms[1]


def test_what_a_prior_cannot_redraw_is_one_line(coded: Coded, options: RedrawConfig, tmp_path: Path):
    crops = load_index(coded.codes)
    crops = replace(crops, meta={**crops.meta, "variants": ["upper-left", "middle"]})
    crops.save(place := tmp_path / "crops" / "index.json")
    for config, message in (
        (replace(options, codes=str(place)), "are of crops only: encode the pictures without --crops"),
        (replace(options, codes=coded.pictures), "holds no codes"),
    ):
        with pytest.raises(UserError, match=message) as told:
            redraw(replace(config, out=str(tmp_path / "out")))
        assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="guidance=2 needs classes"):
        of(tiny_prior(condition="none"), guidance=2.0)
    with pytest.raises(ValueError, match=r"true_share=1\.5 is out of range"):
        replace(options, true_share=1.5)
