"""Weights are found under any nesting of wrappers' names, wherever they are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from launch.checkpoints.names import unwrapped, unwrapped_name
from launch.command.cli import UserError
from stage1_tokenizer.publishing.convert import convert_published
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage2_prior.priors.base import weights_hash
from stage2_prior.priors.build import load_prior
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.foreign import peer_layouts
from tests.stage1_tokenizer.publishing.test_convert import SMALL, state
from tests.stage2_prior.priors.test_depth_and_multiscale import prior_of
from tests.stage2_prior.priors.test_text_prefix import text_prior
from tests.stage2_prior.tiny import tiny_prior

PREFIXES = ["module.", "_orig_mod.module.", "module._orig_mod.", "_fsdp_wrapped_module._checkpoint_wrapped_module."]
prefixes = pytest.mark.parametrize("prefix", PREFIXES)


def rename(file: Path, change: Callable[[str], str]) -> None:
    weights = load_file(file)
    save_file({change(name): tensor for name, tensor in weights.items()}, file, metadata={"format": "pt"})


def test_names_are_those_of_the_wrappers_of_torch() -> None:
    """Of torch.compile, DDP's attribute and activation checkpointing as they are installed; also inside a network."""
    inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    names = list(inner.state_dict())
    assert [unwrapped_name(name) for name in torch.compile(inner).state_dict()] == names
    assert [unwrapped_name(name) for name in nn.DataParallel(inner).state_dict()] == names
    inner[1] = checkpoint_wrapper(torch.compile(inner[1]))  # type: ignore[assignment]
    wrapped = [name for name, _ in inner.named_parameters()]
    assert wrapped != names and [unwrapped_name(name) for name in wrapped] == names


def test_parts_that_are_only_alike_stay() -> None:
    for name in ("my_module.weight", "modules.0.weight", "module_list.0.bias", "encoder.orig_mod.weight"):
        assert unwrapped_name(name) == name


def test_two_weights_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"a\.pt holds both bias and module\.bias, two weights of one name"):
        unwrapped({"bias": 1, "module.bias": 2}, "a.pt")


@prefixes
def test_a_tokenizers_weights(prefix: str, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    rename(tmp_path / "model.safetensors", lambda name: prefix + name)
    assert Tokenizer.from_pretrained(tmp_path).fingerprint == tokenizer.fingerprint
    tokenizer.save_pretrained(tmp_path)
    rename(tmp_path / "model.safetensors", lambda name: name.replace("encoder.", f"encoder.{prefix}", 1))
    assert Tokenizer.from_pretrained(tmp_path).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("prefix", PREFIXES[:2])
def test_a_published_checkpoint(prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a larger model's prefix within, too."""
    monkeypatch.setattr("stage1_tokenizer.publishing.convert.try_out", lambda folder, tokenizer: None)
    weights: dict[str, Tensor] = state(peer_layouts.maskgit(SMALL))
    prints = set()
    for number, before in enumerate(("", prefix, f"{prefix}vqgan.", f"vqgan.{prefix}")):
        path, out = tmp_path / f"{number}.bin", tmp_path / f"out{number}"
        torch.save({"model": {before + name: tensor for name, tensor in weights.items()}}, path)
        options = {"to": "vqloom", "config": None, "weights": "averaged", "size": 16, "licence": None, "origin": None}
        convert_published(source=path, out=out, layout="maskgit", sample_rate=None, model={}, **options)  # type: ignore[arg-type]
        prints.add(Tokenizer.from_pretrained(out).fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize("prefix", PREFIXES[1:3])
@pytest.mark.parametrize("kind", ["autoregressive", "masked", "depth", "multiscale", "text"])
def test_a_priors_weights(kind: str, prefix: str, tmp_path: Path) -> None:
    """Of all its parts. transformers alone would draw what it doesn't find at random."""
    if kind == "text":
        prior = text_prior()
    else:
        prior = prior_of(kind) if kind in ("depth", "multiscale") else tiny_prior(kind=kind)
    prior.save_pretrained(tmp_path)
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == (1 if kind in ("autoregressive", "masked") else 2)
    for file in files:
        rename(file, lambda name: prefix + name)
    assert weights_hash(load_prior(tmp_path)) == weights_hash(prior)


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_a_prior_without_some_of_its_weights_is_refused(kind: str, tmp_path: Path) -> None:
    tiny_prior(kind=kind).save_pretrained(tmp_path)
    rename(tmp_path / "model.safetensors", lambda name: name.replace("layers.1.", "others.1."))
    with pytest.raises(UserError, match=r"has no weights for .*layers\.1\..* of AutoModelFor.*: export the prior"):
        load_prior(tmp_path)
