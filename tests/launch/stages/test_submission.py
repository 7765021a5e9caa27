"""Chains: which jobs, in which order, with which options, and what is left out the second time."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from pathlib import Path

import pytest

from launch import submit
from launch.command.cli import UserError
from launch.slurm import node
from launch.stages import jobs as chain
from launch.stages import records as attempts
from launch.stages import resources as cluster
from launch.stages import submission

ROOT = Path(__file__).resolve().parents[3]
RECIPES = sorted(path.parent for path in (ROOT / "launch" / "recipes").glob("*/prior.yaml"))  # whole chains
MNIST = ROOT / "launch" / "recipes" / "mnist"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The MNIST recipe with its encoding shared out to three jobs."""
    folder = tmp_path / "recipe"
    shutil.copytree(MNIST, folder)
    (folder / "cluster.yaml").write_text(
        "partition: gpu\naccount: lab\nsetup: env.sh\nsrun: [--container-image=x]\nevery: {gpus: 2, time: '1:00:00'}\n"
        "stages:\n  codes-train: {parts: 3, options: [--constraint=a100]}\n  prior: {arguments: [--steps, '9']}\n"
    )
    return folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in [name for name in os.environ if name.startswith(("SLURM", "VQLOOM"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_recipe_has_a_cluster_file_that_loads(recipe: Path) -> None:
    assert (recipe / "cluster.yaml").exists()
    config = cluster.load(recipe)
    assert set(config.stages) <= set(chain.NEEDS)


def test_every_stage_comes_after_what_it_needs(recipe: Path, tmp_path: Path) -> None:
    seen: set[str] = set()
    for stage in chain.read(recipe, tmp_path).stages:
        assert set(stage.needs) <= seen, stage.name
        assert (ROOT / "launch" / "slurm" / stage.script).exists()
        seen.add(stage.name)
    assert "codes-train-index" in seen
    assert "samples-index" not in seen


def test_a_recipe_may_tune_the_decoder_on_what_the_prior_draws(recipe: Path, tmp_path: Path) -> None:
    (recipe / "decoder.yaml").write_text("steps: 5\n")
    (recipe / "cluster.yaml").write_text("stages:\n  redraw: {parts: 2, arguments: [--true_share, '0.5']}\n")
    stages = {stage.name: stage for stage in chain.read(recipe, tmp_path).stages}
    order = ["prior", "redraw", "redraw-index", "decoder", "decoder-release", "samples", "prior-evaluation", "report"]
    assert list(stages)[5:] == order
    assert stages["redraw"].arguments_of(1, 2)[-6:] == ["--true_share", "0.5", "--part", "1", "--parts", "2"]
    assert stages["redraw-index"].arguments == ("--out", str(tmp_path / "codes" / "redrawn"), "--parts", "2")
    assert stages["decoder"].needs == ("redraw-index",) and stages["samples"].needs == ("prior", "decoder-release")
    for name, script in (("redraw", "redraw"), ("decoder", "tokenizer"), ("decoder-release", "release")):
        assert stages[name].script == f"{script}.sbatch" and (ROOT / "launch" / "slurm" / stages[name].script).exists()
    arguments = stages["samples"].arguments
    assert arguments[arguments.index("--tokenizer") + 1] == str(tmp_path / "decoder")
    plain = chain.read(MNIST, tmp_path).stage("samples").arguments
    assert plain[plain.index("--tokenizer") + 1] == str(tmp_path / "tokenizer")


def rows(recipe: Path, out: Path, first: str | None = None, **live: str) -> dict[str, submission.Row]:
    jobs = {name.strip("j"): state for name, state in live.items()}
    return {row.stage.name: row for row in submission.plan(chain.read(recipe, out), recipe, out, first, jobs)}


def test_the_command_of_a_job(recipe: Path, tmp_path: Path) -> None:
    line = rows(recipe, tmp_path)["codes-train"].command
    for option in ("--partition=gpu", "--account=lab", "--gpus-per-node=2", "--array=0,1,2", "--constraint=a100"):
        assert option in line
    (exports,) = (word for word in line if word.startswith("--export="))
    assert "VQLOOM_SETUP=env.sh" in exports
    assert "VQLOOM_PARTS=3" in exports
    assert "VQLOOM_SRUN=--container-image=x" in exports


def test_only_what_is_missing_is_submitted(recipe: Path, tmp_path: Path) -> None:
    for name, part in (("tokenizer", None), ("codes-train", 0), ("codes-train", 2)):
        attempts.begin(tmp_path, name, part)
        attempts.end(tmp_path, name, 0, part)
    (tmp_path / "jobs.json").write_text('{"stages": {"release": {"job": "12"}, "prior": {"job": "13"}}}')
    planned = rows(recipe, tmp_path, j12="RUNNING")
    assert planned["tokenizer"].what == "done"
    assert (planned["release"].what, planned["release"].job) == ("running as job 12", "12")
    assert "--array=1" in planned["codes-train"].command
    assert planned["prior"].command, "job 13 is gone and its stage isn't done"


def test_finished_stages_of_other_inputs_are_named(recipe: Path, tmp_path: Path) -> None:
    index = tmp_path / "train.json"
    index.write_text("{}")
    settings = (recipe / "tokenizer.yaml").read_text()
    (recipe / "tokenizer.yaml").write_text(re.sub(r"(?m)^(  index:).*", rf"\1 {index}", settings))
    first = list(rows(recipe, tmp_path).values())
    submission.keep_inputs(first, tmp_path)
    for name in ("tokenizer", "release"):
        attempts.begin(tmp_path, name)
        attempts.end(tmp_path, name, 0)
    assert submission.changed_inputs(list(rows(recipe, tmp_path).values()), tmp_path) == []
    index.write_text('{"other": 1}')
    again = list(rows(recipe, tmp_path).values())
    (warning,) = submission.changed_inputs(again, tmp_path)
    assert f"tokenizer was done before {index} changed" in warning
    submission.keep_inputs(again, tmp_path)  # of what is still to be done only
    assert submission.changed_inputs(again, tmp_path) == [warning]


def test_from_wants_what_the_stage_needs(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--from prior needs .*tokenizer/model.safetensors, which the stage release"):
        rows(recipe, tmp_path, "prior")
    for path in ("codes/train/index.json", "codes/held_out/index.json", "tokenizer/model.safetensors"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    left = ["tokenizer-evaluation", "prior", "samples", "prior-evaluation", "report"]
    assert list(rows(recipe, tmp_path, "prior")) == left
    with pytest.raises(UserError, match="there is no stage priors: choose one of tokenizer, release"):
        rows(recipe, tmp_path, "priors")


def test_a_mistake_in_the_cluster_file_is_one_line(recipe: Path, tmp_path: Path) -> None:
    (recipe / "cluster.yaml").write_text("stages: {tokeniser: {nodes: 2}}\n")
    with pytest.raises(UserError, match=r"stages.tokeniser is no stage: choose one of tokenizer"):
        chain.read(recipe, tmp_path)
    (recipe / "cluster.yaml").write_text("partitions: gpu\n")
    with pytest.raises(UserError, match="partitions"):
        chain.read(recipe, tmp_path)


def test_the_dry_run_submits_nothing(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main([str(recipe), "--nodes", "4", "--out", str(tmp_path / "out"), "--dry-run", "--local"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[:2] == ["tokenizer", "4"]
    assert not (tmp_path / "out").exists()


def test_the_launcher_of_a_node_gets_rank_address_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    flags = node.accelerate_flags("m", ["--a", "b"], nodes=4, node=2, processes=8, address="n7", port=20001)
    pairs = dict(itertools.pairwise(flags))
    assert (pairs["--num_machines"], pairs["--machine_rank"]) == ("4", "2")
    assert (pairs["--main_process_ip"], pairs["--main_process_port"]) == ("n7", "20001")
    assert (pairs["--num_processes"], pairs["--rdzv_backend"], pairs["-m"]) == ("32", "static", "m")
    assert flags[-2:] == ["--a", "b"]
