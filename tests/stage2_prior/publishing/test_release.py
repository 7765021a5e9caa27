from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from launch.command.cli import UserError
from stage1_tokenizer.publishing.card import Publication
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.measuring.evaluation import evaluate
from stage2_prior.priors.build import load_prior
from stage2_prior.publishing.card import write_card
from stage2_prior.release import ReleaseConfig, release
from tests.stage2_prior.conftest import Coded, Trained
from tests.stage2_prior.tiny import tiny_prior, write_tokenizer


def test_plain_transformers_generates_our_greedy_codes_from_a_release(coded: Coded, trained: Trained, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    out = release(
        ReleaseConfig(prior=trained.prior, out=str(tmp_path / "out"), tokenizer=coded.tokenizer, licence="mit")
    )
    wanted = {"README.md", "config.json", "generation_config.json", "metrics.json", "model.safetensors", "prior.json"}
    assert {path.name for path in out.iterdir()} == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing temporary is left"
    prior = load_prior(out)
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 1, 2, -1]))
    ours_BN = prior.sample(token_B, torch.zeros(4, prior.draws(Drawing())), Drawing(temperature=0))
    theirs_BT = AutoModelForCausalLM.from_pretrained(out).generate(token_B[:, None], do_sample=False)
    assert torch.equal(theirs_BT[:, 1:], ours_BN)
    for name, weight in load_prior(trained.prior).state_dict().items():
        assert torch.equal(prior.state_dict()[name], weight)
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 < metrics["bits_per_code"] < 5 and metrics["data"]["name"] == "halves"


def test_the_card_names_the_tokenizer_and_its_snippet_works(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = release(ReleaseConfig(prior=trained.prior, out=str(tmp_path / "halves"), licence="mit"))
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    assert load_prior(out).source.tokenizer in card and "4×4 codes out of 24, 3 classes" in card
    assert "| bits_per_code |" in card and "unknown" not in card.split("Commit")[1].split(";")[1]
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippet is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, torch.Tensor] = {}
    exec(snippet.group(1), names)
    assert names["code_BN"].shape == (1, 16) and names["code_BN"].max() < 24


def test_given_figures_must_be_of_these_weights(coded: Coded, trained: Trained, tmp_path: Path):
    file = str(tmp_path / "figures.json")
    config = ReleaseConfig(prior=trained.prior, out=str(tmp_path / "out"), metrics=file, licence="mit")
    evaluate(EvaluateConfig(prior=trained.prior, codes=coded.held_out_codes, out=file))
    assert json.loads((release(config) / "metrics.json").read_text())["codes"] == 18
    figures = json.loads(Path(file).read_text()) | {"prior_weights": "0" * 64}
    Path(file).write_text(json.dumps(figures))
    other = ReleaseConfig(prior=trained.prior, out=str(tmp_path / "other"), metrics=file, licence="mit")
    with pytest.raises(UserError, match="was measured on other weights") as caught:
        release(other)
    assert "\n" not in str(caught.value) and not (tmp_path / "other").exists()


def test_what_can_not_be_released_is_told_in_one_line(coded: Coded, trained: Trained, tmp_path: Path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("model: {kind: autoregressive}\n")
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / "config.yaml").write_text("model: {channels: 32}\n")
    other = write_tokenizer(tmp_path / "other", seed=5)
    for changes, message in (
        ({"out": "taken"}, r"out=.* exists: choose another folder"),
        ({"prior": str(tmp_path / "unfinished")}, r"isn't finished: resume its training"),
        ({"prior": str(tmp_path / "tokenizers")}, r"is not a prior's run"),
        ({"prior": str(tmp_path)}, r"is not a run folder"),
        ({"tokenizer": other}, r"tokenizer=.* but the codes are of"),
    ):
        values = {"prior": trained.prior, "out": "out", "licence": "mit"} | changes
        with pytest.raises(UserError, match=message) as caught:
            release(ReleaseConfig(**values | {"out": str(tmp_path / values["out"])}))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("licence", "message"), [(None, "licence is not set"), ("unknown", "licence=unknown is not")])
def test_a_release_needs_a_licence(licence: str | None, message: str):
    with pytest.raises(ValueError, match=message):
        ReleaseConfig(prior="run", out="out", licence=licence)


def test_a_masked_priors_card_is_of_its_stock_model(tmp_path: Path):
    settings = {
        "data": {"index": "gone.json", "batch_size": 8},
        "run": {"precision": "fp32"},
        "optimizer": {"ema_decay": 0.9},
        "steps": 3,
    }
    publication = Publication("fill", "mit", "fill")
    write_card(tmp_path / "README.md", publication, tiny_prior(kind="masked"), tmp_path, settings, {}, {})
    card = (tmp_path / "README.md").read_text()
    assert 'AutoModelForMaskedLM.from_pretrained("fill")' in card and "the mask token is 28" in card
    assert "could not be read" in card and "None were measured." in card
