"""Unified priors begun from a text model's released weights, trained whole or by low-rank changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from launch.command.cli import UserError
from stage2_prior.priors.build import load_prior
from stage2_prior.train import train
from tests.stage2_prior.commands.test_train import train_killed_at
from tests.stage2_prior.unified.test_training import settings, weights
from tests.stage2_prior.unified.tiny import letters

OWN = 256
"""Tokens of the text model: single bytes."""


@pytest.fixture(scope="module")
def text_model(place: Path) -> Path:
    """A text model with rows to spare, as released ones have, and tied embeddings."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    lm = Qwen3ForCausalLM(
        Qwen3Config(vocab_size=OWN + 4, num_key_value_heads=1, tie_word_embeddings=True, **shape)  # type: ignore[arg-type]
    )
    folder = place / "text_model"
    lm.save_pretrained(folder)
    tokenizer = letters()
    described = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    assert tokenizer.token_to_id("<s>") == OWN
    bare = type(tokenizer).from_str(json.dumps(described))
    bare.save(str(folder / "tokenizer.json"))
    return folder


def begun(place: Path, folder: Path, text_model: Path, **model: Any) -> Any:
    config = settings(place, folder)
    unified = replace(config.model.unified, text_tokenizer="")
    model = {"layers": 6, "width": 256, "heads": 4} | model  # the defaults: the text model decides
    return replace(config, init_text=str(text_model), model=replace(config.model, unified=unified, **model))


def test_it_begins_with_its_rows_and_their_mean_for_new_tokens(
    place: Path,
    tmp_path: Path,
    text_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from stage2_prior.training.unified import UnifiedSets

    config = begun(place, tmp_path / "run", text_model)
    prior, stock = UnifiedSets.opened(config).fresh(config), AutoModelForCausalLM.from_pretrained(text_model)
    (rows_VD, theirs_VD) = (model.get_input_embeddings().weight for model in (prior.lm, stock))
    assert prior.vocabulary.texts == OWN + 11 and prior.vocabulary.size == len(rows_VD) == OWN + 11 + 24
    assert torch.equal(rows_VD[:OWN], theirs_VD[:OWN])
    torch.testing.assert_close(rows_VD[OWN:], theirs_VD[:OWN].mean(0).expand(35, -1))
    assert prior.lm.lm_head.weight is prior.lm.model.embed_tokens.weight
    assert prior.lm.config.max_position_embeddings >= 40
    assert train(config) == 0
    made = load_prior(tmp_path / "run")
    assert made.lm.config.model_type == "qwen3" and made.described == {"init_text": "text_model"}


def test_low_rank_changes_resume_and_are_merged_into_the_release(
    place: Path,
    tmp_path: Path,
    text_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = begun(place, tmp_path / "whole", text_model, lora_rank=2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"model.lora_rank needs peft, which isn't installed: pip install 'vqloom\[lora\]'"
    ):
        train(begun(place, tmp_path / "none", text_model, lora_rank=2))
    monkeypatch.undo()
    pytest.importorskip("peft")
    assert train(config) == 0
    cut = begun(place, tmp_path / "cut", text_model, lora_rank=2)
    train_killed_at(cut, 3, monkeypatch)
    assert train(cut) == 0
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    before = AutoModelForCausalLM.from_pretrained(text_model).state_dict()
    assert set(one) == {name for name in before if name != "lm_head.weight"}
    moved = {name for name, weight in one.items() if not torch.equal(weight[:OWN], before[name][:OWN])}
    layer = {
        f"model.layers.0.{part}_proj.weight"
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    }
    assert moved == layer | {"model.embed_tokens.weight"}, "norms are kept"
    for name in layer:
        assert int(torch.linalg.matrix_rank(one[name] - before[name], rtol=1e-4)) <= 2


def test_other_text_models_are_refused(place: Path, tmp_path: Path, text_model: Path) -> None:
    with pytest.raises(UserError, match=r"model.layers=2 contradicts init_text=.*, which has 1: leave it out"):
        train(begun(place, tmp_path / "run1", text_model, layers=2))
    strange = tmp_path / "strange"
    shutil.copytree(text_model, strange)
    text = (strange / "tokenizer.json").read_text()
    (strange / "tokenizer.json").write_text(text.replace('"a":', '"aa":'))
    config = begun(place, tmp_path / "run2", strange)
    unified = replace(config.model.unified, text_tokenizer=str(place / "tokenizer.json"))
    with pytest.raises(UserError, match="has the token 'aa' at"):
        train(replace(config, model=replace(config.model, unified=unified)))
    GPT2LMHeadModel(GPT2Config(vocab_size=OWN, n_embd=8, n_layer=1, n_head=1)).save_pretrained(strange)
    with pytest.raises(UserError, match=r"is a GPT2LMHeadModel: give one of LlamaForCausalLM, Qwen3ForCausalLM, Olmo2"):
        train(begun(place, tmp_path / "run3", strange))
