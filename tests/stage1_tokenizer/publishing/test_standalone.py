"""Released tokenizers in environments without any of our code: their codes are those that we compute."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from data.pictures.config import TransformConfig
from data.videos.config import VideoConfig
from stage1_tokenizer.config.training import ModelConfig, QuantizerConfig
from stage1_tokenizer.networks.build import ENCODERS
from stage1_tokenizer.publishing.flatten import FlattenError, flatten
from stage1_tokenizer.publishing.standalone import MODEL, MODEL_FILE, snippet, tables, try_out, write_model_files
from stage1_tokenizer.quantizers import KINDS
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.environments import call, environment
from tests.stage1_tokenizer.foreign import peer_layouts
from tests.stage1_tokenizer.publishing.test_convert import SMALL, run, saved, state
from tests.stage1_tokenizer.small_backbones import BACKBONES
from tests.stage1_tokenizer.small_sound import SOUND
from tests.stage1_tokenizer.small_videos import CAUSAL as VIDEOS

ALONE = """
import importlib, sys
for name in ("stage1_tokenizer", "data", "launch", "lpips", "torchvision"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    sys.exit(f"{name} is importable")
"""
BY_TRANSFORMERS = """
import json, sys, torch
from transformers import AutoModel
from pathlib import Path
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    settings = model.config.model
    sizes = {1: [48], 2: [32, 32], 3: [9, 16, 16]}[settings["spatial_dims"]]
    x = torch.rand(2, settings["in_channels"], *sizes, generator=torch.Generator().manual_seed(3)) * 2 - 1
    y, codes = model.reconstruct(x)
    if codes is not None:
        assert torch.equal(model.encode(x), codes)
        assert torch.allclose(model.decode(codes), y, atol=1e-5)
    print(json.dumps([folder.name, None if codes is None else codes.flatten().tolist(), float(y.double().abs().sum())]))
"""
BY_DIFFUSERS = """
import json, sys, torch
from diffusers import VQModel
model = VQModel.from_pretrained(sys.argv[1]).eval()
x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
with torch.no_grad():
    _, _, (_, _, codes) = model.quantize(model.encode(x).latents)
print(json.dumps(codes.flatten().tolist()))
"""


def tokenizers() -> dict[str, Tokenizer]:
    """One of every quantizer and of every backbone, untrained, for pictures of 32×32, sounds or small clips."""
    conv = {"channels": 8, "channel_multipliers": [1, 1, 1], "res_blocks": 1, "z_channels": 8, "in_channels": 1}
    configs = {**BACKBONES, **{f"sound-{name}": config for name, config in SOUND.items()}}
    configs |= {f"video-{name}": config for name, config in VIDEOS.items()}
    for kind in KINDS:
        quantizer = QuantizerConfig(kind=kind, codebook_size=32, code_dim=4, scales=[1, 2, 4, 8])  # type: ignore[arg-type]
        configs[f"quantizer-{kind}"] = ModelConfig(quantizer=quantizer, **conv)  # type: ignore[arg-type]
    made = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        made[name] = Tokenizer(config, TransformConfig(size=32) if config.spatial_dims == 2 else None).eval()
    return made


def pictures(channels: int, sizes: tuple[int, ...] = (32, 32)) -> torch.Tensor:
    return torch.rand(2, channels, *sizes, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.slow
def test_with_only_torch_transformers_and_safetensors(tmp_path: Path):
    python = environment(tmp_path / "environment", "torch", "transformers", "safetensors")
    call(python, ALONE, cwd=tmp_path)
    made = tokenizers()
    for name, tokenizer in made.items():
        tokenizer.save_pretrained(tmp_path / "released" / name)
        write_model_files(tmp_path / "released" / name)
    printed = call(python, BY_TRANSFORMERS, str(tmp_path / "released"), cwd=tmp_path)
    got = {name: (codes, total) for name, codes, total in map(json.loads, printed.splitlines())}
    assert set(got) == set(made)
    for name, tokenizer in made.items():
        sizes = {1: (48,), 2: (32, 32), 3: (9, 16, 16)}[tokenizer.config.spatial_dims]
        y_BCHW, codes = tokenizer.reconstruct(pictures(tokenizer.config.in_channels, sizes))
        assert got[name][0] == (None if codes is None else codes.flatten().tolist()), name
        assert got[name][1] == pytest.approx(float(y_BCHW.double().abs().sum()), rel=1e-5), name


@pytest.mark.slow
def test_with_only_torch_and_diffusers(tmp_path: Path):
    pytest.importorskip("diffusers")
    path = saved(tmp_path, {"state_dict": state(peer_layouts.taming(SMALL))})
    ours = run(path, tmp_path / "ours", "--from", "taming")
    theirs = run(ours, tmp_path / "theirs", "--to", "diffusers")
    python = environment(tmp_path / "environment", "torch", "diffusers")
    call(python, ALONE, cwd=tmp_path)
    codes = json.loads(call(python, BY_DIFFUSERS, str(theirs), cwd=tmp_path))
    assert codes == Tokenizer.from_pretrained(ours).encode(pictures(3)).flatten().tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import stage1_tokenizer.networks.vqgan\nx = stage1_tokenizer.networks.vqgan\n",
            "write `from package.module import name`",
        ),
        (
            "from stage1_tokenizer.networks.vqgan import *\n\ndef f():\n    from data.shards.tar import *\n",
            "write `from package",
        ),
        ("from stage1_tokenizer.networks.vqgan import Missing\nx = Missing\n", "has no `Missing` at its top level"),
        ("from stage1_tokenizer.networks import vqgan\nx = vqgan.Encoder\n", "has no `vqgan` at its top level"),
        ("import yaml\nx = yaml.safe_load\n", "yaml isn't installed wherever transformers is"),
        ("import importlib\nx = importlib.import_module('stage1_tokenizer.networks.vqgan')\n", "is named in a text"),
    ],
)
def test_unknown_imports_fail(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "strange_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FlattenError, match=message):
        flatten("strange_module", "out.py", "")


def model_files(backbone: str, quantizer: str, layers: int = 0, attention: bool = False) -> dict[str, str]:
    """`layers` are those of seanet's transformers, `attention` is in vocos' decoder."""
    model = {"backbone": backbone, "quantizer": {"kind": quantizer}, "seanet": {"layers": layers}}
    model["vocos"] = {"attention": attention}
    return flatten(MODEL, MODEL_FILE, "From {module}", tables(model))


@pytest.mark.parametrize(("backbone", "layers"), [("seanet", 0), ("seanet", 8), ("vocos", 0), ("seanet_vocos", 0)])
def test_networks_for_sound_travel_with_their_layers(backbone: str, layers: int):
    files = model_files(backbone, "residual", layers)
    for name, text in files.items():
        compile(text, name, "exec")
    networks = {name for name in files if "_networks_" in name or "_layers_" in name or "_quantizers_" in name}
    halves = {f"stage1_tokenizer_networks_{half}.py" for half in backbone.split("_")}
    assert halves | {"stage1_tokenizer_quantizers_residual.py"} <= networks
    assert ("stage1_tokenizer_layers_waveform.py" in networks) == (backbone != "vocos")
    assert ("stage1_tokenizer_layers_window_attention.py" in networks) == bool(layers)
    assert "stage1_tokenizer_networks_vqgan.py" not in networks


def test_settings_travel_without_their_help_texts_and_checks():
    files = model_files("conv", "vq")
    model = files["stage1_tokenizer_config_model.py"]
    assert "    backbone: Literal" in model and "def stride" in model and '"""The networks of a tokenizer' in model
    for name in ("__post_init__", "_check_unused", "_check_widths", "Channels of the data"):
        assert name not in model
    assert "launch_command_checks.py" not in files
    quantizer = files["stage1_tokenizer_config_quantizer.py"]
    assert "def width" in quantizer and "_rules" not in quantizer


def test_only_what_is_needed_travels():
    files = flatten(MODEL, MODEL_FILE, "From {module}")
    assert {"stage1_tokenizer_quantizers_vq.py", "stage1_tokenizer_networks_vit.py"} <= set(files)
    for name, text in files.items():
        compile(text, name, "exec")
        assert "\nfrom stage1_tokenizer." not in text and "\nfrom data." not in text and "jsonargparse" not in text
    assert "def parse" not in files["launch_command_cli.py"] and "class UserError" in files["launch_command_cli.py"]
    assert not any(part in name for name in files for part in ("lpips", "train.py", "launch_run", "remote"))


def test_every_release_has_at_most_2200_lines_and_none_of_kernels():
    """The largest quantizer with every backbone, the largest backbone with every quantizer: lines add up.

    Mimi's transformers and WavTokenizer's attention are counted where they are published. Of videos, 300 lines more.
    """
    kinds = {(name, "residual") for name in ENCODERS} | {("seanet", kind) for kind in KINDS} | {("seanet_vocos", "vq")}
    for name in ("haar", "magvit2", "cosmos"):
        files = flatten(MODEL, MODEL_FILE, "From {module}", tables(asdict(VIDEOS[name])))
        assert sum(text.count("\n") for text in files.values()) <= 2400, name
    for backbone, quantizer in kinds:
        published = (backbone, quantizer) == ("seanet_vocos", "vq")
        files = model_files(backbone, quantizer, layers=8 * (backbone == "seanet"), attention=published)
        most = 2400 if backbone == "movq" else 2200
        assert sum(text.count("\n") for text in files.values()) <= most, (backbone, quantizer)
        for name, text in files.items():
            assert "kernels" not in name and "winograd" not in text and "channels_last" not in text


def test_other_backbones_and_quantizers_stay_behind():
    files = model_files("vit", "residual")
    assert "stage1_tokenizer_quantizers_vq.py" in files, "of which residual is made"
    for name in ("networks_vqgan", "networks_maskgit", "quantizers_fsq", "quantizers_entropy"):
        assert f"stage1_tokenizer_{name}.py" not in files
    with pytest.raises(FlattenError, match="no dictionary `KINDS` with the entries unknown"):
        model_files("conv", "unknown")


def test_a_tokenizer_of_videos_gives_its_codes_without_our_packages(tmp_path: Path):
    transform = VideoConfig(size=16, frames=9, channels=1)
    tokenizer = Tokenizer(replace(VIDEOS["haar"], backbone="conv_plus"), transform).eval()
    tokenizer.save_pretrained(tmp_path)
    write_model_files(tmp_path)
    assert "class FrameAdaptiveNorm" in (tmp_path / "stage1_tokenizer_networks_maskgit.py").read_text()
    try_out(tmp_path, tokenizer)
    shown = snippet(tokenizer, "NAME")
    assert "1, 1, 9, 16, 16" in shown and "9×16×16 (frames, height, width)" in shown and "1×3×4×4" in shown
