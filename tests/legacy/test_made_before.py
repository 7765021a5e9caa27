"""What the commit before the rooms made (make.sh), read, resumed and continued by today's code.

shards/      packed digits                          recipe/    of the two trainings
pipeline/    by launch.pipeline: a tokenizer's and two priors' runs with the checkpoint of step 4 of 8 and what all
             steps logged, the released tokenizer, code shards, samples, evaluations
chain/       by launch.submit --local, without what it has alike with pipeline/
prior/, prior-masked/   released priors
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stage1_tokenizer import Tokenizer
from tests import forked
from tests.golden.compare import SAME_PROCESSOR, differences_of_metrics
from tests.golden.record import ENVIRONMENT, ROOT, limits_for, metrics

HERE = Path(__file__).parent
MADE = json.loads((HERE / "made.json").read_text())
PIPELINE = HERE.relative_to(ROOT) / "pipeline"
SHARDS = HERE.relative_to(ROOT) / "shards"
RECIPE = HERE.relative_to(ROOT) / "recipe"
KEPT = 4
"""The step of the checkpoints that are kept."""


def call(module: str, *words: object) -> str:
    """Run a command of today's; its standard output."""
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith(("ACCELERATE_", "SLURM"))}
    done = forked.call([sys.executable, "-m", module, *words], env=environment)
    assert done.returncode == 0, f"{' '.join(done.args[1:])}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def code_shards(folder: Path) -> dict[str, np.ndarray]:
    """The codes in a folder of shards by their file names, read without our reader."""
    found = {}
    for shard in sorted(folder.glob("codes-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".npy"):
                    contents = tar.extractfile(member)
                    assert contents is not None
                    found[member.name] = np.load(io.BytesIO(contents.read()))
    return found


def alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal where the same processor made both, else but for the few codes that rounding turns."""
    exact = limits_for({"made": MADE}) == SAME_PROCESSOR
    return first.shape == second.shape and float((first == second).mean()) >= (1.0 if exact else 0.99)


def test_a_released_tokenizer_is_read(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(HERE / "pipeline" / "tokenizer")
    described = json.loads((HERE / "pipeline" / "tokenizer" / "config.json").read_text())
    assert tokenizer.fingerprint == described["fingerprint"]
    torch.set_num_threads(1)
    with tarfile.open(HERE / "shards" / "held_out-000000.tar") as tar:
        pictures = {member.name: tar.extractfile(member).read() for member in tar if member.name.endswith(".png")}  # type: ignore[union-attr]
    codes = code_shards(HERE / "pipeline" / "codes" / "held_out")
    assert len(codes) == len(pictures) == 18
    for name, contents in pictures.items():
        (tmp_path / "p.png").write_bytes(contents)
        found = tokenizer.encode(Image.open(tmp_path / "p.png"))[0].numpy()
        assert alike(codes[name.replace(".png", ".codes.npy")].reshape(found.shape), found), name


def test_code_shards_are_made_again(tmp_path: Path) -> None:
    where = ("--tokenizer", PIPELINE / "tokenizer", "--data", SHARDS / "train.json")
    call("stage2_prior.encode", *where, "--out", tmp_path / "codes")
    before, now = code_shards(HERE / "pipeline" / "codes" / "train"), code_shards(tmp_path / "codes")
    assert before.keys() == now.keys()
    assert alike(np.stack([*before.values()]), np.stack([now[name] for name in before]))


@pytest.mark.parametrize("kind", ["", "-masked"])
def test_a_released_prior_over_code_shards(kind: str, tmp_path: Path) -> None:
    """Bits per code of the old shards, and the samples that the old commit drew."""
    prior = HERE.relative_to(ROOT) / f"prior{kind}"
    held_out = PIPELINE / "codes" / "held_out" / "index.json"
    call("stage2_prior.evaluate", "--prior", prior, "--codes", held_out, "--out", tmp_path / "bits.json")
    now = json.loads((tmp_path / "bits.json").read_text())
    before = json.loads((HERE / "pipeline" / "evaluation" / f"prior{kind}.json").read_text())
    assert now["prior_weights"] == before["prior_weights"]
    assert now["bits_per_code"] == pytest.approx(before["bits_per_code"], rel=1e-5)
    assert now["accuracy"] == pytest.approx(before["accuracy"], abs=2 / 18 / 64)
    settings = json.loads((HERE / "pipeline" / f"samples{kind}" / "samples.json").read_text())["settings"]
    drawn = ("--guidance", settings["guidance"], "--count", settings["count"], "--seed", settings["seed"])
    where = ("--prior", prior, "--tokenizer", PIPELINE / "tokenizer", "--out", tmp_path / "samples")
    call("stage2_prior.sample", *where, *drawn)
    codes = [
        np.load(place / "codes" / "000000.npy")
        for place in (HERE / PIPELINE.name / f"samples{kind}", tmp_path / "samples")
    ]
    assert alike(*codes)


TRAININGS = {
    "tokenizer-run": ("stage1_tokenizer.train", "tokenizer", ["--config", RECIPE / "tokenizer.yaml"]),
    "prior-run": ("stage2_prior.train", "prior", ["--config", RECIPE / "prior.yaml"]),
    "prior-run-masked": ("stage2_prior.train", "prior", ["--config", RECIPE / "prior.yaml", "--model.kind", "masked"]),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_run_is_resumed(name: str, tmp_path: Path) -> None:
    """The steps after the old checkpoint log what the old commit logged when it went on itself."""
    module, stage, options = TRAININGS[name]
    codes = PIPELINE / "codes"
    data = ["--tokenizer", PIPELINE / "tokenizer", "--data.index", codes / "train" / "index.json"]
    data += ["--data.held_out", codes / "held_out" / "index.json"]
    run = tmp_path / name
    shutil.copytree(HERE / "pipeline" / name, run)
    before = [line for line in metrics(run, stage) if line["step"] >= KEPT]
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] < KEPT))
    call(module, *options, *(data if stage == "prior" else []), "--run.folder", run)
    now = metrics(run, stage)
    assert sorted({line["step"] for line in now}) == list(range(9)), "not resumed, but begun anew or not finished"
    unequal = differences_of_metrics(
        name, before, [line for line in now if line["step"] >= KEPT], limits_for({"made": MADE})
    )
    assert not unequal, "\n".join(unequal)
    (line,) = differences_of_metrics(name, before[:1], [{**before[0], first_loss(before[0]): 0.0}], SAME_PROCESSOR)
    assert "now 0.0" in line


def first_loss(line: dict[str, Any]) -> str:
    return next(name for name in line if name.startswith("loss/"))


def test_a_finished_pipeline_is_reused_and_continued(tmp_path: Path) -> None:
    out = tmp_path / "pipeline"
    shutil.copytree(HERE / "pipeline", out)
    words = ["--data", "digits", "--recipe", RECIPE, "--out", out, "--count", "2", "--masked", "true"]
    words += [word for part in ("train", "held_out") for word in (f"--{part}", SHARDS / f"{part}.json")]
    shutil.rmtree(out / "samples")
    said = call("launch.pipeline", *words)
    assert said.count("reused, it was done earlier with the same configuration") == 10
    assert (out / "samples" / "grid.png").is_file()
    assert "bits_per_code" in json.loads((out / "metrics.json").read_text())["prior"]
    assert "masked" in (out / "report.html").read_text()


def test_a_chain_is_read_and_continued(tmp_path: Path) -> None:
    """Done stages are left alone; the one whose record is gone is run again, as are its jobs' states."""
    out = tmp_path / "chain"
    shutil.copytree(HERE / "pipeline", out, ignore=shutil.ignore_patterns("stages", "*masked*", "metrics.json"))
    shutil.copytree(HERE / "chain", out, dirs_exist_ok=True)
    assert "prior-evaluation" in call("launch.status", out)
    planned = call("launch.submit", RECIPE, "--out", out, "--local", "--dry-run")
    stages = sorted(path.stem for path in (HERE / "chain" / "stages").iterdir())
    assert [line.split()[-1] for line in planned.splitlines() if line.split()[0] in stages] == ["done"] * len(stages)
    for name in ("samples", "report"):
        (out / "stages" / f"{name}.json").unlink()
    said = call("launch.submit", RECIPE, "--out", out, "--local")
    ran = [line for line in said.splitlines() if line.startswith("submit: ") and "reused" not in line]
    assert len(ran) == 2 and "stage2_prior.sample" in ran[0] and "launch.slurm.finish" in ran[1]
    assert (out / "report.html").is_file()
    attempts = json.loads((out / "stages" / "samples.json").read_text())
    assert attempts["state"] == "done"
    assert [path.name for path in (out / "samples" / "codes").iterdir()] == ["000000.npy"]
