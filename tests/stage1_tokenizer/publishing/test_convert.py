"""The command, from a trainer's file to a released folder and back out to diffusers; what it refuses, and how."""

from __future__ import annotations

import argparse
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from launch.command.cli import UserError
from stage1_tokenizer.convert import main
from stage1_tokenizer.foreign import discriminator
from stage1_tokenizer.publishing.standalone import try_out
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.foreign import peer_layouts
from tests.stage1_tokenizer.foreign.peer_layouts import Shape, Shapes

SMALL = Shape(ch=32, mult=(1, 2), blocks=1, z=8, codes=16, dim=8, attention=(1,))


def state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        for name, shape in shapes.items()
    }


def saved(folder: Path, content: Any, name: str = "last.ckpt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def run(*words: Any) -> Path:
    main([str(word) for word in words])
    return Path(words[1])


@pytest.fixture(autouse=True)
def trials(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str]]:
    """The folders that were tried, and with which tokenizer, instead of the trials, which take seconds each."""
    tried: list[tuple[Path, str]] = []

    def note(folder: Path, tokenizer: Tokenizer) -> None:
        assert (folder / "modeling_vqloom.py").is_file() and (folder / "README.md").is_file()
        tried.append((folder, tokenizer.fingerprint))

    monkeypatch.setattr("stage1_tokenizer.publishing.convert.try_out", note)
    return tried


def pictures(size: int = 16) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_a_lightning_checkpoint_becomes_a_released_folder(tmp_path: Path):
    weights = state(peer_layouts.taming(SMALL))
    adversarial = state({f"loss.discriminator.{name}": shape for name, shape in peer_layouts.patchgan(8, 2).items()})
    lpips = {"loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 64, 1, 1)}
    path = saved(tmp_path, {"state_dict": {**weights, **adversarial, **lpips}, "epoch": 3})
    (tmp_path / "model.yaml").write_text("model: {params: {ddconfig: {resolution: 64, dropout: 0.1}}}\n")
    licence = ("--licence", "mit", "--origin", "https://example.org/vqgan")
    out = run(path, tmp_path / "out", "--from", "taming", "--config", tmp_path / "model.yaml", *licence)
    names = {"README.md", "config.json", "discriminator.safetensors", "model.safetensors", "preprocessor_config.json"}
    assert {place.name for place in out.iterdir()} >= names
    tokenizer = Tokenizer.from_pretrained(out)
    ours = tokenizer.weights()
    assert all(torch.equal(ours[name.replace("quantize.", "quantizer.")], weights[name]) for name in weights)
    assert tokenizer.config.quantizer.beta_placement == "legacy" and tokenizer.config.dropout == 0.1
    assert tokenizer.transform is not None and tokenizer.transform.size == 64
    assert json.loads((out / "preprocessor_config.json").read_text())["value_range"] == [-1.0, 1.0]
    card = (out / "README.md").read_text()
    for said in ("license: mit", "taming's layout", "https://example.org/vqgan", "`last.ckpt`", tokenizer.fingerprint):
        assert said in card
    assert tokenizer.encode(pictures()).shape == (2, 8, 8)
    carried = discriminator.load(out)
    assert carried is not None and not [name for name in carried if "running" in name]
    assert torch.equal(carried["main.2.weight"], adversarial["loss.discriminator.main.2.weight"])


@pytest.mark.parametrize(("weights", "expected"), [("averaged", 2.0), ("last", 1.0)])
@pytest.mark.parametrize("keeps", ["lightning", "llamagen"])
def test_averaged_weights_are_the_default(weights: str, expected: float, keeps: str, tmp_path: Path):
    listing = peer_layouts.taming if keeps == "lightning" else peer_layouts.llamagen
    last = {name: torch.full(shape, 1.0) for name, shape in listing(SMALL).items()}
    averages = {name: tensor * 2 for name, tensor in last.items()}
    if keeps == "lightning":
        content: Any = {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in averages.items()}
        content = {"state_dict": {**last, **content, "model_ema.decay": torch.tensor(0.999)}}
    else:
        content = {"model": last, "ema": averages, "steps": 5}
    layout = "ibq" if keeps == "lightning" else "llamagen"
    out = run(saved(tmp_path, content), tmp_path / "out", "--from", layout, "--weights", weights)
    assert float(load_file(out / "model.safetensors")["encoder.conv_in.bias"][0]) == expected


def test_a_flat_file_and_a_folder_are_read(tmp_path: Path):
    weights = state(peer_layouts.maskgit(SMALL))
    folder = tmp_path / "maskgit"
    folder.mkdir()
    save_file(weights, folder / "pytorch_model.safetensors")
    (folder / "config.json").write_text('{"resolution": 128}')
    tokenizer = Tokenizer.from_pretrained(run(folder, tmp_path / "out", "--from", "maskgit"))
    assert tokenizer.transform is not None and tokenizer.transform.size == 128
    saved(folder, {"module." + name: tensor for name, tensor in weights.items()}, "other.bin")
    with pytest.raises(UserError, match=r"several checkpoints \(other\.bin, pytorch_model\.safetensors\): give one"):
        run(folder, tmp_path / "again", "--from", "maskgit")
    again = Tokenizer.from_pretrained(run(folder / "other.bin", tmp_path / "again", "--from", "maskgit"))
    assert again.fingerprint == tokenizer.fingerprint


def test_a_converted_folder_is_tried_without_our_packages_before_it_is_there(
    tmp_path: Path, trials: list[tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
):
    path = saved(tmp_path, state(peer_layouts.maskgit(SMALL)))
    out = run(path, tmp_path / "out", "--from", "maskgit", "--size", "16")
    ((tried, fingerprint),) = trials
    assert tried != out and fingerprint == Tokenizer.from_pretrained(out).fingerprint

    def fail(folder: Path, tokenizer: Tokenizer) -> None:
        raise UserError("it needs our package")

    monkeypatch.setattr("stage1_tokenizer.publishing.convert.try_out", fail)
    with pytest.raises(UserError, match="it needs our package"):
        run(path, tmp_path / "again", "--from", "maskgit", "--size", "16")
    assert not (tmp_path / "again").exists()


BY_NAME = """
import importlib
importlib.import_module("data." + "media")
"""
IN_A_METHOD = """
def later(*_):
    from stage2_prior.config import drawing
VqloomTokenizer.encode = later
"""
NEEDS = {
    "at its top": ("modeling_vqloom.py", "import stage1_tokenizer.layers.precision\n"),
    "in a method": ("modeling_vqloom.py", IN_A_METHOD),
    "by name": ("stage1_tokenizer_tokenizer_codec.py", BY_NAME),
}
"""Lines that a defective release could have: file, and what is added to it."""


@pytest.mark.parametrize("how", [None, *NEEDS])
def test_the_trial_fails_where_a_folder_needs_our_packages(how: str | None, tmp_path: Path):
    """Although they are installed, and can be imported from anywhere."""
    path = saved(tmp_path, state(peer_layouts.maskgit(SMALL)))
    out = run(path, tmp_path / "out", "--from", "maskgit", "--size", "16")
    if how is None:
        try_out(out, Tokenizer.from_pretrained(out))
        return
    file, lines = NEEDS[how]
    (out / file).write_text((out / file).read_text() + lines)
    with pytest.raises(
        UserError, match=r"does not load with transformers alone \(.*(stage1_tokenizer|stage2_prior|data)"
    ):
        try_out(out, Tokenizer.from_pretrained(out))


def test_options_set_what_weights_do_not_state(tmp_path: Path):
    path = saved(tmp_path, state(peer_layouts.var(SMALL, scales=4)), "vae.pth")
    out = run(
        path, tmp_path / "out", "--from", "var", "--model.quantizer.scales=[1, 2, 3, 4]", "--model.dropout", "0.2"
    )
    tokenizer = Tokenizer.from_pretrained(out)
    assert tokenizer.encode(pictures(8)).shape == (2, 1 + 4 + 9 + 16) and tokenizer.config.dropout == 0.2
    assert tokenizer.transform is not None and tokenizer.transform.size == 8


@torch.no_grad()
def test_diffusers_computes_the_same_both_ways(tmp_path: Path):
    from diffusers import VQModel

    torch.manual_seed(0)
    shape = {"latent_channels": 8, "num_vq_embeddings": 32, "vq_embed_dim": 4, "sample_size": 16}
    blocks = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), ("AttnUpDecoderBlock2D", "UpDecoderBlock2D")
    peer = VQModel(block_out_channels=(32, 64), down_block_types=blocks[0], up_block_types=blocks[1], **shape).eval()
    for parameter in peer.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    latents = peer.encode(pictures()).latents
    peer.quantize.embedding.weight.copy_(latents.movedim(1, -1).flatten(0, -2)[:32])
    codes = peer.quantize(latents)[2][2].view(2, 8, 8)
    recon = peer.decode(latents).sample.clamp(-1, 1)
    peer.save_pretrained(tmp_path / "theirs")

    tokenizer = Tokenizer.from_pretrained(run(tmp_path / "theirs", tmp_path / "ours", "--from", "diffusers"))
    assert len(codes.unique()) > 8 and torch.equal(tokenizer.encode(pictures()), codes)
    assert torch.allclose(tokenizer.decode(codes), recon, atol=1e-4)

    back = VQModel.from_pretrained(run(tmp_path / "ours", tmp_path / "back", "--to", "diffusers"))
    for (name, one), (other_name, other) in zip(peer.state_dict().items(), back.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(one, other)
    assert torch.equal(back(pictures()).sample, peer(pictures()).sample)
    theirs, ours = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "back"))
    for unused in ("scaling_factor", "sample_size"):
        del ours[unused]
    assert {key: theirs[key] for key in ours} == ours


def test_settings_that_diffusers_lacks_are_named(tmp_path: Path):
    path = saved(tmp_path, {"model": state(peer_layouts.llamagen(SMALL))})
    with pytest.raises(UserError, match=r"VQModel has no model\.quantizer\.l2_normalise=True: this tokenizer"):
        run(path, tmp_path / "out", "--from", "llamagen", "--to", "diffusers")
    path = saved(tmp_path, state(peer_layouts.maskgit(SMALL)))
    with pytest.raises(UserError, match=r"no model\.backbone=conv_plus; no model\.pixel_range=unit; no .*kernel=0"):
        run(path, tmp_path / "out", "--from", "maskgit", "--to", "diffusers")
    assert not (tmp_path / "out").exists()


def test_parts_of_diffusers_that_are_not_supported_are_named(tmp_path: Path):
    weights = state(peer_layouts.diffusers(SMALL)) | {"decoder.conv_norm_out.norm_layer.weight": torch.ones(32)}
    (tmp_path / "movq.json").write_text('{"_class_name": "VQModel", "norm_type": "spatial"}')
    path = saved(tmp_path, weights)
    with pytest.raises(UserError, match=r"has norm_type=spatial, which is not supported"):
        run(path, tmp_path / "out", "--from", "diffusers", "--config", tmp_path / "movq.json")


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_of_a_checkpoint_is_executed(zipped: bool, tmp_path: Path):
    class Hostile:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    content = {"state_dict": state(peer_layouts.taming(SMALL)), "callbacks": Hostile()}
    torch.save(content, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"last\.ckpt .*save its state_dict alone with torch\.save") as told:
        run(tmp_path / "last.ckpt", tmp_path / "out", "--from", "taming")
    assert "\n" not in str(told.value) and ("builtins.exec" if zipped else "it holds exec") in str(told.value)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_a_trainers_other_objects_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    callback = type("ModelCheckpoint", (), {"__module__": name})
    sys.modules[name].ModelCheckpoint = callback  # type: ignore[attr-defined]
    content = {"state_dict": state(peer_layouts.taming(SMALL)), "callbacks": {callback: {"best": 1.5}}}
    path = saved(tmp_path, {**content, "args": argparse.Namespace(lr=1e-4, folder=tmp_path)})
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.delitem(sys.modules, part)
    assert Tokenizer.from_pretrained(run(path, tmp_path / "out", "--from", "taming")).codebook_size == 16


MISTAKES: dict[str, tuple[Any, list[str], str]] = {
    "missing": (
        lambda w: w.pop("decoder.mid.block_2.norm1.bias"),
        [],
        r"lacks decoder\.mid\.block_2\.norm1\.bias \(.*1 m",
    ),
    "unknown": (
        lambda w: w.update({"encoder.extra": torch.ones(1)}),
        [],
        r"has an unknown encoder\.extra .*1 too many",
    ),
    "shape": (
        lambda w: w.update({"decoder.norm_out.weight": torch.ones(64)}),
        [],
        r"differs at decoder\.norm_out\.weight, \(64,\) instead of \(32,\)",
    ),
    "other": (lambda w: w, ["--from", "maskgit"], r"isn't in maskgit's layout, .* it looks like --from taming$"),
    "nothing": (lambda w: w.clear(), [], r"holds no weights of a model \(its keys: state_dict\)"),
    "option": (lambda w: w, ["--codes", "5"], r"--codes is not a known setting: did you mean \w+"),
    "setting": (lambda w: w, ["--model.quantizer.kinds", "vq"], r"model can't be read .*kinds"),
    "licence": (
        lambda w: w,
        ["--licence", "Mit"],
        r"licence=Mit is not a licence identifier of the Hub: set it to mit",
    ),
    "layout": (lambda w: w, ["--from", "dalle"], r"from=dalle is not known: choose among .*taming"),
    "config": (lambda w: w, ["--config", "nowhere.yaml"], r"config=nowhere\.yaml is neither readable YAML nor JSON"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, tmp_path: Path):
    spoil, options, message = MISTAKES[mistake]
    weights = state(peer_layouts.taming(SMALL))
    spoil(weights)
    path = saved(tmp_path, {"state_dict": weights})
    with pytest.raises(UserError, match=message) as told:
        run(path, tmp_path / "out", "--from", "taming", *options)
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()


def test_a_damaged_file_a_full_folder_and_no_layout_are_refused(tmp_path: Path):
    path = saved(tmp_path, {"state_dict": state(peer_layouts.taming(SMALL))})
    with pytest.raises(UserError, match="--from is missing"):
        run(path, tmp_path / "out")
    with pytest.raises(UserError, match="exists: choose another folder"):
        run(path, tmp_path, "--from", "taming")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="can't be read as weights only"):
        run(path, tmp_path / "out", "--from", "taming")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        run(tmp_path / "nowhere", tmp_path / "out", "--from", "taming")


def test_a_discriminator_of_another_kind_is_dropped_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    content = {"model": state(peer_layouts.llamagen(SMALL)), "discriminator": {"blocks.0.weight": torch.ones(3, 3)}}
    out = run(saved(tmp_path, content), tmp_path / "out", "--from", "llamagen")
    assert not (out / discriminator.FILE).exists() and "none: it isn't a PatchGAN" in (out / "README.md").read_text()
    assert "discriminator: none: it isn't a PatchGAN" in capsys.readouterr().err


def test_errors_of_the_command_are_one_line(tmp_path: Path):
    done = tiny.call(
        "stage1_tokenizer.convert", [str(tmp_path / "nowhere.ckpt"), str(tmp_path / "out"), "--from", "ibq"]
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nowhere.ckpt" in done.stderr
    shown = tiny.call("stage1_tokenizer.convert", ["--help"])
    assert shown.returncode == 0 and "--from" in shown.stdout and "Nothing in IN is executed" in shown.stdout
