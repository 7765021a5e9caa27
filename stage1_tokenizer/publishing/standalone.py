"""The code in a model card that needs none of ours, the files it loads, and its trial in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from launch.command.cli import UserError
from launch.files.templates import render
from stage1_tokenizer import quantizers
from stage1_tokenizer.config.video_networks import VideoNetConfig
from stage1_tokenizer.networks import along_time, build, maskgit, seanet, vocos
from stage1_tokenizer.publishing.flatten import Tables, flatten
from stage1_tokenizer.tokenizer.folder import CONFIG
from stage1_tokenizer.tokenizer.model import Tokenizer

MODEL, MODEL_FILE = "stage1_tokenizer.publishing.transformers_model", "modeling_vqloom.py"
ORIGIN = "Made from {module} of vqloom {version}, Apache-2.0: change that, not this."

OURS = ("data", "launch", "stage1_tokenizer", "stage2_prior")
"""Our packages, none of which a released folder may need."""

TRIAL = """
import sys


class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ours}:
            raise ModuleNotFoundError(f"it needs our package {{name}}", name=name)


sys.meta_path.insert(0, Refused())
import torch

torch.manual_seed(0)
torch.set_num_threads({threads})
{snippet}
torch.save({{"x": x, "codes": codes, "y": y}}, sys.argv[1])
"""


def snippet(tokenizer: Tokenizer, name: str) -> str:
    """Code that loads a released folder or repository with transformers alone, and uses it."""
    assert tokenizer.transform is not None
    config, sides = tokenizer.config, tokenizer.transform.sizes
    size = "×".join(map(str, sides)) + {1: " samples", 2: "", 3: " (frames, height, width)"}[config.spatial_dims]
    return render(
        "card_code.md",
        name=name,
        shape=", ".join(map(str, [1, config.in_channels, *sides])),
        axes=f"batch, channel{'s' if config.in_channels > 1 else ''}, then {size}",
        codes="×".join(map(str, [1, *tokenizer.codes_shape(sides)])) if tokenizer.codebook_size else "",
    ).strip()


def write_model_files(folder: Path) -> None:
    """Put the files for trust_remote_code beside config.json, and name them there for transformers.

    Of backbones and quantizers, those of this tokenizer travel.
    """
    try:
        number = version("vqloom")
    except PackageNotFoundError:
        number = ""
    origin = ORIGIN.replace("{version}", number).replace(" ,", ",")
    values = json.loads((folder / CONFIG).read_text())
    for name, text in flatten(MODEL, MODEL_FILE, origin, tables(values["model"])).items():
        (folder / name).write_text(text)
    module = MODEL_FILE.removesuffix(".py")
    names = {"AutoConfig": f"{module}.VqloomConfig", "AutoModel": f"{module}.VqloomTokenizer"}
    (folder / CONFIG).write_text(json.dumps({**values, "auto_map": names}, indent=2) + "\n")


def tables(model: dict[str, Any]) -> Tables:
    """The entries that a model's settings (config.json) need of the tables of kinds."""
    backbone, quantizer = [model["backbone"]], [model["quantizer"]["kind"]]
    video = VideoNetConfig(**model.get("video", {}))
    return {
        build.__name__: {"ENCODERS": backbone, "DECODERS": backbone},
        quantizers.__name__: {"KINDS": quantizer},
        seanet.__name__: {"TRANSFORMERS": ["window"] if model.get("seanet", {}).get("layers") else []},
        vocos.__name__: {"MIXERS": ["attention"] if model.get("vocos", {}).get("attention") else []},
        along_time.__name__: {
            "LAYERS": ["alike" if backbone == ["movq"] else video.kind],
            "PATCHES": ["encoder", "decoder"] if video.haar > 1 else [],
        },
        maskgit.__name__: {"ADAPTIVE": ["frame" if video.apart else "clip"]},
    }


def try_out(folder: Path, tokenizer: Tokenizer) -> None:
    """Run the card's code on the folder, without our packages; UserError unless it gives the tokenizer's own codes.

    In that process importing them fails, also where they are installed.
    """
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result.pt"
        shown = snippet(tokenizer, str(folder.resolve()))
        code = TRIAL.format(ours=OURS, snippet=shown, threads=torch.get_num_threads())
        environment = {**os.environ, "HF_MODULES_CACHE": f"{place}/modules", "HF_HUB_OFFLINE": "1"}
        line = [sys.executable, "-I", "-c", code, str(result)]
        done = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"{folder} does not load with transformers alone ({last}): report it as a defect")
        got = torch.load(result, weights_only=True)
    y, codes = tokenizer.reconstruct(got["x"])
    same = codes is None or torch.equal(codes, got["codes"])
    if not same or not torch.allclose(y, got["y"], atol=1e-5):
        raise UserError(f"{folder} gives other codes with transformers alone: report it as a defect")
