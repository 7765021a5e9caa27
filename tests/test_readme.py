"""The walk-throughs of README.md and docs/, command by command, on a handful of pictures and a few small steps."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from launch.stages.listing import ROOT
from stage1_tokenizer.foreign import LAYOUTS
from tests import forked
from tests.stage1_tokenizer.foreign import peer_layouts
from tests.stage1_tokenizer.publishing.test_convert import state
from tests.stage2_prior.tiny import write_tokenizer

SMALL = {
    "stage1_tokenizer.train": "--steps 2 --run.precision fp32 --data.transform.size 32 --data.batch_size 4 "
    "--evaluate_samples 4 --loss.adversarial.start 1 --loss.adversarial.channels 8",
    "stage2_prior.train": "--steps 2 --run.precision fp32 --data.batch_size 4 --model.layers 1 --model.width 16 "
    "--model.heads 2",
    "stage2_prior.sample": "--count 1",
}
"""What makes each long command short."""


def section(page: str, heading: str) -> str:
    """What a page has under a heading."""
    text = (ROOT / page).read_text().split(f"\n## {heading}\n", 1)[1]
    return re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0]


def commands(page: str, *headings: str) -> list[str]:
    """The commands in the shell blocks under the headings, with continued lines joined."""
    blocks = [block for name in headings for block in re.findall(r"```bash\n(.*?)```", section(page, name), re.DOTALL)]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith(("python", "accelerate"))]


def run(words: list[str]) -> None:
    """A command as it is typed, in a process of its own."""
    assert words[:2] == ["python", "-m"]
    done = forked.call([sys.executable, *words[1:]])
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Emoji in a folder for each class."""
    folder = tmp_path / "pictures"
    index = str(ROOT / "data" / "samples" / "emoji" / "held_out.json")
    for batch in every_sample(index, TransformConfig(size=64), batch_size=40, limit=40):
        for pixels, label, key in zip(batch.pixels_BCHW, batch.label_B, batch.keys, strict=True):
            place = folder / str(int(label))
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(place / f"{key}.png")
    return folder


def test_own_pictures(pictures: Path, tmp_path: Path):
    measuring = ("Measure a tokenizer", "Measure a prior and its samples", "Compare two results")
    listed = [*commands("README.md", "Train on your own pictures"), *commands("docs/evaluation.md", *measuring)]
    assert len(listed) == 13
    for command in listed:
        words = shlex.split(
            command.replace("path/to/pictures", str(pictures))
            .replace("runs/mine", str(tmp_path / "mine"))
            .replace("--held_out 0.05", "--held_out 0.2")
        )
        for module, options in SMALL.items():
            if module in words:
                words += shlex.split(options)
        run(words)
    for made in (
        "sheet.png",
        "tokenizer/model.safetensors",
        "evaluation.json",
        "prior/config.json",
        "samples/grid.png",
    ):
        assert (tmp_path / "mine" / made).is_file()


def test_texts_and_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The commands in this process, on captioned pictures and an untrained tokenizer."""
    inpaint = [line.replace("mine/prior-run", "texts/prior") for line in commands("docs/priors.md", "Inpaint")]
    inpaint = [line.replace("mine/shards/held_out.json", "texts/shards/train.json") for line in inpaint]
    listed = [*commands("docs/priors.md", "Condition a prior on texts"), *inpaint]
    assert len(listed) == 5
    write_tokenizer(tmp_path / "mine" / "tokenizer")
    (tmp_path / "captioned").mkdir()
    for number in range(8):
        Image.new("L", (16, 16), 30 * number).save(tmp_path / "captioned" / f"{number}.png")
        (tmp_path / "captioned" / f"{number}.txt").write_text(f"grey of {30 * number}\n")
    monkeypatch.chdir(ROOT)
    for command in listed:
        command = command.replace("launch.local --processes 1 ", "").replace("runs/", f"{tmp_path}/")
        _, _, module, *words = shlex.split(command.replace("path/to", str(tmp_path)))
        monkeypatch.setattr(sys, "argv", [module, *words, *shlex.split(SMALL.get(module, ""))])
        assert not importlib.import_module(module).main(), command
    assert (tmp_path / "texts" / "samples" / "0000 a red fox in the snow" / "00000.png").is_file()
    assert len(list((tmp_path / "mine" / "below").glob("*/00003.png"))) == 8


def test_bringing_a_tokenizer(tmp_path: Path):
    """The commands on small weights of the layouts that they name, and on digits that ship."""
    tasks = ("Convert a published checkpoint", "Fine-tune a converted tokenizer", "Export to diffusers or transformers")
    listed = commands("docs/convert.md", *tasks)
    assert len(listed) == 4
    shape = peer_layouts.Shape(ch=32, mult=(1, 2), blocks=1, z=8, codes=16, dim=8, attention=(1,))
    judged = {f"loss.discriminator.{name}": size for name, size in peer_layouts.patchgan(64, 2).items()}
    torch.save({"model": state(peer_layouts.llamagen(shape))}, tmp_path / "vq_ds16_c2i.pt")
    torch.save({"state_dict": state(peer_layouts.taming(shape) | judged)}, tmp_path / "last.ckpt")
    (tmp_path / "model.yaml").write_text("model: {params: {ddconfig: {resolution: 32}}}\n")
    shards = ROOT / "data" / "samples" / "mnist"
    for command in listed:
        short = command.replace("runs/mine/shards", str(shards)).replace("runs/mine", str(tmp_path / "mine"))
        words = shlex.split(short.replace("path/to", str(tmp_path)))
        if "--init" in words:
            words += shlex.split("--steps 2 --run.precision fp32 --data.transform.size 32 --data.batch_size 4")
            words += shlex.split("--evaluate_samples 4 --loss.perceptual.weight 0 --run.trackers []")
        run(words)
    assert "discriminator: from there too" in (tmp_path / "mine" / "tuned" / "log.txt").read_text()
    assert (tmp_path / "mine" / "vqmodel" / "diffusion_pytorch_model.safetensors").is_file()


def test_the_layouts_named_are_those_that_can_be_read():
    rows = re.findall(r"^\| (`[^|]+) \|", section("docs/convert.md", "Convert a published checkpoint"), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(LAYOUTS)
