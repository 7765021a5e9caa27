"""Jobs on a real SLURM: scripts it accepts, a training told to stop, requeued and gone on with, plain refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from data.order.sample_order import SampleOrder
from launch.checkpoints import folders
from launch.stages import records as attempts
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import ROOT, Toy, until
from tests.slurm.toy import SAMPLES

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]

SCRIPTS = sorted((ROOT / "launch" / "slurm").glob("*.sbatch"))


def all_samples(steps: int, batch: int = 16) -> dict[int, list[int]]:
    """What each step must have seen: the order is a function."""
    order = SampleOrder([SAMPLES // 4] * 4, seed=0, batch_size=batch)
    return {step: [int(shard * (SAMPLES // 4) + place) for shard, place in order.batch(step)] for step in range(steps)}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_slurm_accepts_the_script(cluster: Cluster, script: Path) -> None:
    cluster.call("sbatch", "--test-only", "--nodes=2", str(script))


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    files = [*SCRIPTS, ROOT / "launch" / "slurm" / "common.sh", ROOT / "tests" / "slurm" / "install.sh"]
    done = subprocess.run(["shellcheck", "-x", *map(str, files)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


def test_a_training_told_to_stop_saves_is_requeued_and_goes_on(toy: Toy) -> None:
    toy.submit("--steps", "60", "--run.save_every", "1000", "--step_seconds", "0.05")
    until(240, lambda: toy.steps_done() >= 5 or toy.over(), "five steps")
    toy.cluster.call("scancel", "--batch", "--signal=USR1", toy.job)
    until(120, lambda: toy.state != "RUNNING", "requeue")
    (saved,) = folders.steps(toy.folder)
    assert 5 <= saved < 60
    state = attempts.read(toy.out, "tokenizer")
    assert (state["state"], state["attempts"][0]["code"], state["attempts"][0]["to"]) == ("waiting", 85, saved)
    assert toy.wait(300) == "COMPLETED"
    assert f"2 ranks, from step {saved}" in toy.text()
    assert "preflight: all-reduce over 2 nodes: " in toy.text() and "slowest n1-n2 " in toy.text()
    assert toy.orders() == all_samples(60)
    assert attempts.read(toy.out, "tokenizer")["state"] == "done"
    assert toy.cluster.job(toy.job)["Restarts"] == "1"
    logs = list((toy.out / "logs").glob("tokenizer-*-1/node*/**/stderr.log"))
    assert len(logs) == 2, "a log for each rank"


def test_a_mistake_is_one_line_and_not_requeued(toy: Toy) -> None:
    toy.submit("--stepz", "60", VQLOOM_PREFLIGHT="0")
    assert toy.wait(240) == "FAILED"
    # SLURM has its own lines when one task's exit ends the others.
    lines = [line for line in toy.text().splitlines() if not line.startswith(("srun:", "slurmstepd"))]
    errors = [line for line in lines if "error:" in line]
    assert len(errors) == 1, errors
    assert "stepz" in errors[0]
    assert "Traceback" not in toy.text()
    assert attempts.read(toy.out, "tokenizer")["state"] == "failed"
    assert toy.cluster.job(toy.job)["Restarts"] == "0"


def test_the_preflight_names_the_node_without_the_shared_folder(toy: Toy, tmp_path: Path) -> None:
    """One node's view of the run folder is covered by an empty file system, as if it weren't shared."""
    setup = tmp_path / "setup.sh"
    # The launchers of node n2 look from a mount namespace of their own.
    wrap = tmp_path / "python"
    wrap.write_text(
        "#!/bin/bash\n"
        f'if [ "$SLURMD_NODENAME" = n2 ] && [ "$3" = look ]; then exec unshare --mount sh -c \'mount -t tmpfs none '
        f'{toy.out} && exec "$@"\' sh {ROOT}/.venv/bin/python "$@"; fi\nexec {ROOT}/.venv/bin/python "$@"\n'
    )
    wrap.chmod(0o755)
    setup.write_text(f'. {ROOT}/.venv/bin/activate\nexport PATH="{tmp_path}:$PATH"\n')
    toy.submit("--steps", "5", VQLOOM_SETUP=str(setup))
    assert toy.wait(240) == "FAILED"
    assert "node n2" in toy.text()
    assert "shared" in toy.text()
    assert not (toy.folder / "config.yaml").exists()
    assert json.loads((toy.out / "stages" / "tokenizer.json").read_text())["reason"] == "preflight"
