"""docs/extending.md, followed: toys of six kinds are added to a copy of the packages, and go through the commands.

Each recipe must name just the files that its toy touches, and no more than it promises.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.imports import PACKAGES, ROOT
from tests.stage1_tokenizer.tiny import OPTIONS

GUIDE = (ROOT / "docs" / "extending.md").read_text()


@dataclass(frozen=True)
class Toy:
    """One addition."""

    heading: str
    """Its section in docs/extending.md."""
    most: int
    """The most files that it may touch."""
    new: dict[str, str]
    """New files and what they hold."""
    changed: dict[str, tuple[str, ...]]
    """Files that are changed: pairs of what stood there and what stands there now, one after the other."""

    @property
    def files(self) -> set[str]:
        """All files that it touches."""
        return {*self.new, *self.changed}


LOSSES = "stage1_tokenizer/config/losses.py"
TOYS = [
    Toy(
        "Add a pixel loss",
        2,
        {},
        {
            "stage1_tokenizer/losses/pixel.py": (
                '    "l1": F.l1_loss,',
                '    "toy": lambda x, y: (x - y).pow(4).mean(),',
            ),
            LOSSES: ('pixel: Literal["l1", ', 'pixel: Literal["toy", "l1", '),
        },
    ),
    Toy(
        "Add a loss term",
        2,
        {
            "stage1_tokenizer/losses/toy.py": """
from stage1_tokenizer.losses.term import Term


class ToyTerm(Term):
    name = "toy"

    def forward(self, x_hat_BCHW, x_BCHW):
        return (x_hat_BCHW.mean() - x_BCHW.mean()).abs()
"""
        },
        {
            "stage1_tokenizer/media/pictures.py": (
                "from stage1_tokenizer.losses.term import",
                "from stage1_tokenizer.losses.toy import ToyTerm\nfrom stage1_tokenizer.losses.term import",
                "TERMS: dict[str, Callable[..., Term]] = {",
                'TERMS: dict[str, Callable[..., Term]] = {"toy": ToyTerm, ',
            )
        },
    ),
    Toy(
        "Add a discriminator",
        3,
        {
            "stage1_tokenizer/discriminators/toy.py": """
from torch import nn


class ToyDiscriminator(nn.Module):
    def __init__(self, config, in_channels, spatial_dims):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 1, 3)

    def forward(self, x_BCHW):
        return self.conv(x_BCHW)
"""
        },
        {
            "stage1_tokenizer/discriminators/__init__.py": (
                "from stage1_tokenizer.discriminators.stylegan import",
                "from stage1_tokenizer.discriminators.toy import ToyDiscriminator\n"
                "from stage1_tokenizer.discriminators.stylegan import",
                '    "patch": Discriminator,',
                '    "patch": Discriminator,\n    "toy": ToyDiscriminator,',
            ),
            LOSSES: ('discriminator: Literal["patch", ', 'discriminator: Literal["toy", "patch", '),
        },
    ),
    Toy(
        "Add a quantizer",
        3,
        {
            "stage1_tokenizer/quantizers/toy.py": """
import torch
import torch.nn.functional as F

from stage1_tokenizer.quantizers.base import Quantized, Quantizer


class LargestChannel(Quantizer):
    def __init__(self, config):
        super().__init__(config)
        self.codebook_size = self.input_channels = self.latent_channels = config.code_dim

    def forward(self, z_BDhw):
        idx_Bhw = z_BDhw.argmax(1)
        soft_BDhw = z_BDhw.softmax(1)
        return Quantized(self.embed(idx_Bhw).to(z_BDhw) + soft_BDhw - soft_BDhw.detach(), idx_Bhw)

    def embed(self, idx_Bhw):
        return F.one_hot(idx_Bhw, self.codebook_size).movedim(-1, 1).to(torch.get_default_dtype())
"""
        },
        {
            "stage1_tokenizer/quantizers/__init__.py": (
                "from stage1_tokenizer.quantizers.vq import",
                "from stage1_tokenizer.quantizers.toy import LargestChannel\n"
                "from stage1_tokenizer.quantizers.vq import",
                '    "vq": VectorQuantizer,',
                '    "vq": VectorQuantizer,\n    "toy": LargestChannel,',
            ),
            "stage1_tokenizer/config/quantizer.py": ('kind: Literal["vq", ', 'kind: Literal["toy", "vq", '),
        },
    ),
    Toy(
        "Add a kind of prior",
        3,
        {
            "stage2_prior/priors/toy.py": """
from transformers import LlamaForCausalLM

from stage2_prior.generation.logits import draw_codes
from stage2_prior.priors.base import Prior
from stage2_prior.priors.stock import llama_settings
from stage2_prior.priors.losses import code_losses


class ToyPrior(Prior):
    kind = "toy"
    stock = "AutoModelForCausalLM"

    @classmethod
    def build(cls, config, vocabulary, source, quantizer=None):
        return cls(LlamaForCausalLM(llama_settings(config, vocabulary.size, source.positions)), vocabulary, source)

    def logits(self, token_B):
        x_BND = self.embedded(token_B).repeat(1, self.source.positions, 1)
        return self.lm(inputs_embeds=x_BND, use_cache=False).logits[..., : self.vocabulary.codebook_size].float()

    def forward(self, code_BN, token_B):
        loss_BN, nats_BN = code_losses(self.logits(self.dropped(token_B)), code_BN, self.label_smoothing, self.z_loss)
        return loss_BN.mean(), nats_BN.mean()

    def score(self, code_BN, token_B):
        logits_BNK = self.logits(token_B)
        return code_losses(logits_BNK, code_BN, 0, 0)[1], (logits_BNK.argmax(-1) == code_BN).float()

    def sample(self, token_B, uniform_BU, drawing, given_BN=None):
        code_X = draw_codes(self.logits(token_B).flatten(0, 1), uniform_BU.flatten(), drawing)
        return code_X.view_as(uniform_BU)

    def usage(self, name):
        return f"{name} draws all codes at once."
"""
        },
        {
            "stage2_prior/priors/build.py": (
                "from stage2_prior.priors.text_prefix import",
                "from stage2_prior.priors.toy import ToyPrior\nfrom stage2_prior.priors.text_prefix import",
                "for kind in (AutoregressivePrior, ",
                "for kind in (ToyPrior, AutoregressivePrior, ",
            ),
            "stage2_prior/config/model.py": (
                'kind: Literal["autoregressive", ',
                'kind: Literal["toy", "autoregressive", ',
            ),
        },
    ),
    Toy(
        "Add a data source",
        2,
        {
            "data/packing/sources/toy.py": """
import numpy as np

from data.packing.sources.base import Raw, Source


class ToySource(Source):
    about = "grey pictures, as many as the path says"

    def __init__(self, path):
        super().__init__()
        count = int(path)
        self.classes = ["dark", "bright"]
        self.labels = np.arange(count) % 2
        self.splits = {"train": np.arange(count // 2), "held_out": np.arange(count // 2, count)}

    def read(self, number):
        pixels_HW = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
        return Raw(f"{number:04d}", array=pixels_HW, label=int(self.labels[number]))
"""
        },
        {
            "data/packing/sources/__init__.py": (
                "from data.packing.sources.tars import",
                "from data.packing.sources.toy import ToySource\nfrom data.packing.sources.tars import",
                '    "folder": FolderSource,',
                '    "folder": FolderSource,\n    "toy": ToySource,',
            )
        },
    ),
]


def recipe(heading: str) -> set[str]:
    """The files that a section numbers, with the toy's name for NAME."""
    section = re.split(r"^## ", GUIDE.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return {file.replace("NAME", "toy") for file in re.findall(r"^\d\. `([\w/.]+)`", section, re.MULTILINE)}


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.heading)
def test_the_recipe_names_the_files(toy: Toy) -> None:
    assert recipe(toy.heading) == toy.files
    assert len(toy.files) <= toy.most
    assert all((ROOT / file).is_file() for file in toy.changed)
    assert not any((ROOT / file).exists() for file in toy.new)


def follow(toy: Toy, root: Path) -> None:
    """Make the additions in a copy."""
    for file, text in toy.new.items():
        (root / file).write_text(f'"""A toy."""\n{text}')
    for file, edits in toy.changed.items():
        text = (root / file).read_text()
        for before, after in zip(edits[::2], edits[1::2], strict=True):
            assert text.count(before) == 1, f"{file}: {before}"
            text = text.replace(before, after)
        (root / file).write_text(text)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with all additions."""
    root = tmp_path_factory.mktemp("extended")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "mnist", "emoji", "speech")
        )
    for toy in TOYS:
        follow(toy, root)
    return root


IN_TURN = """
import importlib, json, sys
for module, *words in json.loads(sys.argv[1]):
    sys.argv = [module, *words]
    assert not importlib.import_module(module).main(), module
"""


def call(root: Path, *lines: tuple[str, ...]) -> None:
    """Run commands of the copy, one after the other in a process that imports it once."""
    line = [sys.executable, "-c", IN_TURN, json.dumps(lines)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_all_of_them_go_through_the_commands(extended: Path) -> None:
    pack = ("data.pack", "40", "shards", "--kind", "toy", "--processes", "1")
    changed = {
        **{name: value for name, value in OPTIONS.items() if not name.startswith("model.quantizer")},
        "data.index": "shards/train.json",
        "data.held_out": "shards/held_out.json",
        "run.folder": "run",
        "steps": "4",
        "loss.pixel": "toy",
        "loss.terms": '{"toy": 0.5}',
        "loss.adversarial.discriminator": "toy",
        "model.quantizer.kind": "toy",
        "model.quantizer.code_dim": "8",
    }
    options = [word for name, value in changed.items() for word in (f"--{name}", value)]
    release = ("stage1_tokenizer.release", "--run", "run", "--out", "tokenizer", "--licence", "mit")
    encode = ("stage2_prior.encode", "--tokenizer", "tokenizer")
    encoded = [(*encode, "--data", f"shards/{part}.json", "--out", f"codes/{part}") for part in ("train", "held_out")]
    words = ("--tokenizer", "tokenizer", "--data.index", "codes/train/index.json", "--data.batch_size", "4")
    model = ("--model.kind", "toy", "--model.layers", "1", "--model.width", "16", "--model.heads", "2")
    more = ("--steps", "2", "--run.folder", "prior", "--run.precision", "fp32", "--run.trackers", "[]")
    prior = ("stage2_prior.train", *words, *model, *more)
    sample = ("stage2_prior.sample", "--prior", "prior", "--tokenizer", "tokenizer", "--out", "samples")
    call(extended, pack, ("stage1_tokenizer.train", *options), release, *encoded, prior, sample)
    logged = [json.loads(line) for line in (extended / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/rec", "loss/toy", "loss/discriminator"} <= {name for line in logged for name in line}
    assert len(list((extended / "samples").glob("*/*.png"))) == 20
