"""What the cluster tests share: submitting the small training, finding its processes, disturbing it, judging it."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.slurm.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
TRAINING = "tests.slurm.toy"
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY")


def until(seconds: float, ready: Callable[[], Any], what: str) -> float:
    """Wait for something; the seconds it took. TimeoutError past the limit."""
    began = time.monotonic()
    while not ready():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not after {seconds} s")
        time.sleep(0.1)
    return time.monotonic() - began


@dataclass
class Toy:
    """One submission of the small training on a cluster."""

    cluster: Cluster
    out: Path
    job: str = ""
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.out.with_suffix(".log")

    @property
    def folder(self) -> Path:
        return self.out / "tokenizer-run"

    def submit(self, *arguments: str, nodes: int = 2, **environ: str) -> Toy:
        """Submit; arguments go to the training."""
        exports = {"VQLOOM_RECIPE": "tests/slurm/recipe", "VQLOOM_OUT": str(self.out), "VQLOOM_ROOT": str(ROOT)}
        variables = ",".join(
            f"{name}={value}" for name, value in {**exports, "OMP_NUM_THREADS": "1", **environ}.items()
        )
        options = [f"--nodes={nodes}", f"--output={self.log}", f"--export=ALL,{variables}", f"--chdir={ROOT}"]
        script = str(ROOT / "launch" / "slurm" / "tokenizer.sbatch")
        said = self.cluster.call("sbatch", *options, script, "--run.trackers", "[]", *arguments)
        self.job = said.split()[-1]
        return self

    @property
    def state(self) -> str:
        return self.cluster.job(self.job)["JobState"]

    def over(self) -> bool:
        return self.state in OVER

    def wait(self, seconds: float = 300) -> str:
        """Wait for its end; its last state."""
        until(seconds, self.over, f"end of job {self.job} in state {self.state}")
        return self.state

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def processes(self, what: str = TRAINING) -> list[psutil.Process]:
        """This job's processes whose command line names `what`: ranks, or launch.slurm.node for launchers."""
        found = []
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
                if (
                    what not in line or Path(line[0]).name == "srun"
                ):  # srun, and a helper of its own whose end nothing heeds
                    continue
                if process.environ().get("VQLOOM_OUT") == str(self.out):
                    found.append(process)
            except psutil.Error:
                continue
        launched = "ACCELERATE_MIXED_PRECISION"  # told to ranks, not to their launcher; a lone rank has no RANK
        ranks = [process for process in found if what != TRAINING or launched in environ_of(process)]
        return sorted(
            ranks, key=lambda process: int(environ_of(process).get("RANK", environ_of(process)["SLURM_NODEID"]))
        )

    def steps_done(self) -> int:
        """Steps that rank 0 began so far."""
        file = self.out / "order.0.txt"
        return file.read_text().count("\n") if file.exists() else 0

    def final(self) -> dict[str, Any]:
        return json.loads((self.out / "final.json").read_text())

    def orders(self) -> dict[int, list[int]]:
        """Each step's samples in the order of the ranks: the last time it was done counts, as its weights do."""
        parts: dict[int, dict[int, list[int]]] = defaultdict(dict)
        for file in self.out.glob("order.*.txt"):
            for line in file.read_text().splitlines():
                step, *samples = map(int, line.split())
                parts[step][int(file.suffixes[-2].strip("."))] = samples
        return {step: [sample for _, part in sorted(by.items()) for sample in part] for step, by in parts.items()}


def environ_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {"SLURM_NODEID": "0"}


def kill_tree(process: psutil.Process) -> None:
    """SIGKILL to a process and all below it."""
    for one in [process, *process.children(recursive=True)]:
        try:
            one.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue


def disturb(toy: Toy, kind: str, chance: random.Random) -> None:
    """One interruption of a running job."""
    call = toy.cluster.call
    if kind == "USR1 to the batch script":
        call("scancel", "--batch", "--signal=USR1", toy.job)
    elif kind == "USR1 to the step":
        call("scancel", "--signal=USR1", toy.job)
    elif kind == "TERM to the step":
        call("scancel", "--signal=TERM", toy.job)
    elif kind == "requeue":
        call("scontrol", "requeue", toy.job)
    elif kind == "kill -9 of a rank":
        os.kill(chance.choice(toy.processes()).pid, signal.SIGKILL)
    elif kind == "kill -9 of a node's step":
        kill_tree(chance.choice(toy.processes("launch.slurm.node")))
    elif kind == "node set down":
        name = chance.choice(toy.cluster.names)
        call("scontrol", "update", f"nodename={name}", "state=down", "reason=test")
        until(60, lambda: toy.state != "RUNNING", "end of the job after its node went down")
        call("scontrol", "update", f"nodename={name}", "state=resume")
    else:
        raise ValueError(kind)


KINDS = (
    "USR1 to the batch script",
    "USR1 to the step",
    "TERM to the step",
    "requeue",
    "kill -9 of a rank",
    "kill -9 of a node's step",
    "node set down",
)
