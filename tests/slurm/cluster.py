"""A real SLURM on this one machine, for tests: each node has its own network namespace, host name and slurmd.

    python -m tests.slurm.cluster start DIR [--nodes 2] [--cpus 4]     # prints the export line for SLURM_CONF
    python -m tests.slurm.cluster stop DIR

Needs root and what tests/slurm/install.sh installs. The nodes are joined by a bridge and reach nothing else; they
share the file system, as a cluster's do. `stop` ends the jobs, the daemons and the namespaces of this DIR only.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged", "munge", "ip", "nsenter", "unshare")
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"

SETTINGS = """\
ClusterName=tests
SlurmctldHost={controller}({subnet}.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job starts again no sooner than its old credential ends: 10 s instead of two minutes.
AuthInfo=socket={munge}/socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/run/slurmctld.own
SlurmdPidFile={folder}/run/slurmd-%n.own
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
# Follows the tree of processes, so that torchrun's workers, which are sessions of their own, end with their step.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
KillWait=10
# A job in the partition `urgent` takes the nodes of those in `test`, which get SIGTERM first, then 20 s.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=3600
ReturnToService=2
SlurmdTimeout=120
SlurmdParameters=config_overrides
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]
    if absent:
        return f"{', '.join(absent)} not installed: run tests/slurm/install.sh"
    return None if os.geteuid() == 0 else "a local SLURM needs root, for network namespaces"


class Cluster:
    """A cluster in one folder; also a context manager, which stops it on the way out."""

    def __init__(self, folder: Path, *, nodes: int = 2, cpus: int = 4):
        self.folder = folder.resolve()
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.cpus = cpus
        self.conf = self.folder / "slurm.conf"
        self._tag, self._munge = f"vq{secrets.token_hex(3)}", ""

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which sbatch and its like speak to this cluster."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**kept, "SLURM_CONF": str(self.conf), "PATH": SEARCH}

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; returns once all nodes are idle."""
        for name in ("run", "log", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        # munged wants a folder that everyone may enter, which a test's own is not.
        self._munge = tempfile.mkdtemp(prefix="vqloom-munge-")
        Path(self._munge).chmod(0o755)
        (self.folder / "run" / "munge").write_text(self._munge)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        subnet, port = f"10.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}", 20000 + secrets.randbelow(9000)
        self._write_settings(subnet, port)
        self._connect(subnet)
        self._start_daemons()

    def _write_settings(self, subnet: str, port: int) -> None:
        controller = socket.gethostname().split(".")[0]
        names = {"controller": controller, "subnet": subnet, "port": port, "folder": self.folder, "munge": self._munge}
        lines = [SETTINGS.format(**names)]
        hosts = ["127.0.0.1 localhost", f"{subnet}.1 {names['controller']}"]
        for number, name in enumerate(self.names, start=11):
            lines.append(
                f"NodeName={name} NodeAddr={subnet}.{number} Port={port + number} CPUs={self.cpus} RealMemory=8000"
                " State=UNKNOWN\n"
            )
            hosts.append(f"{subnet}.{number} {name}")
        every = "Nodes=ALL DefaultTime=60 MaxTime=INFINITE State=UP"
        lines.append(f"PartitionName=test {every} Default=YES PriorityTier=1 GraceTime=20\n")
        lines.append(f"PartitionName=urgent {every} PriorityTier=9\n")
        self.conf.write_text("".join(lines))
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        # No name server answers in a namespace: ask the hosts file only.
        (self.folder / "nsswitch").write_text("passwd: files\ngroup: files\nhosts: files\n")

    def _connect(self, subnet: str) -> None:
        """One bridge, and for each node a namespace with one end of a cable; written down first, for stop."""
        bridge = f"{self._tag}br"
        made = {"links": [bridge], "namespaces": [f"{self._tag}-{name}" for name in self.names]}
        (self.folder / "run" / "network.json").write_text(json.dumps(made))
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{subnet}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, name in enumerate(self.names, start=11):
            inside, cable = f"{self._tag}-{name}", f"{self._tag}{name}"
            _ip("netns", "add", inside)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", inside)
            _ip("link", "set", cable, "master", bridge, "up")
            _ip("-n", inside, "addr", "add", f"{subnet}.{number}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", inside, "link", "set", link, "up")

    def _start_daemons(self) -> None:
        run, log = self.folder / "run", self.folder / "log"
        self._spawn(
            *(
                "munged",
                "munged",
                "--foreground",
                f"--socket={self._munge}/socket",
                f"--key-file={self.folder}/munge.key",
            ),
            *(f"--pid-file={run}/munged.own", f"--log-file={log}/munged.log", f"--seed-file={run}/munge.seed"),
        )
        self._wait(10, "munged", lambda: _quiet("munge", "-n", "-S", f"{self._munge}/socket"))
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        for name in self.names:
            (self.folder / f"spool-{name}").mkdir(exist_ok=True)
            script = (
                f"hostname {name} && mount --bind {self.folder}/hosts /etc/hosts && "
                f"mount --bind {self.folder}/nsswitch /etc/nsswitch.conf && exec slurmd -D -N {name} -f {self.conf}"
            )
            inside = ["nsenter", f"--net=/run/netns/{self._tag}-{name}", "unshare", "--uts", "--mount"]
            self._spawn(f"slurmd-{name}", *inside, "sh", "-c", script)
        self._wait(60, "idle nodes", lambda: self.idle() == sorted(self.names))

    def _spawn(self, name: str, *command: str) -> None:
        """A daemon whose pid is the child's own, because every step of its command execs."""
        clean = {"PATH": SEARCH, "SLURM_CONF": str(self.conf), "HOME": "/root", "LANG": "C.UTF-8"}
        with (self.folder / "log" / f"{name}.out").open("wb") as out:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=clean, start_new_session=True
            )
        (self.folder / "run" / f"{name}.pid").write_text(str(child.pid))

    def _wait(self, seconds: float, what: str, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > until:
                logs = "\n".join(path.read_text()[-800:] for path in sorted((self.folder / "log").glob("*.out")))
                raise RuntimeError(f"no {what} after {seconds} s:\n{logs}")
            time.sleep(0.1)

    def call(self, *command: str, check: bool = True) -> str:
        """Run a SLURM command against this cluster; its output."""
        done = subprocess.run(command, capture_output=True, text=True, env=self.environ, check=False, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def idle(self) -> list[str]:
        """Names of the nodes that are up and free."""
        return sorted(set(self.call("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False).split()))

    def job(self, number: int | str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        text = self.call("scontrol", "-o", "show", "job", str(number))
        return dict(field.split("=", 1) for field in text.split() if "=" in field)

    def stop(self) -> None:
        """Cancel jobs, end the daemons started in this folder, remove its links and namespaces."""
        run = self.folder / "run"
        daemons = {path.stem: int(path.read_text()) for path in run.glob("*.pid")}
        if _alive(daemons.get("slurmctld", 0)):
            jobs = self.call("squeue", "-h", "-o", "%A", check=False).split()
            if jobs:
                self.call("scancel", *sorted(set(jobs)), check=False)
                self._patiently(20, lambda: not self.call("squeue", "-h", "-o", "%A", check=False).strip())
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in filter(_alive, daemons.values()):
                os.kill(pid, number)
            self._patiently(10, lambda: not any(map(_alive, daemons.values())))
        for path in run.glob("*.pid"):
            path.unlink()
        self._patiently(5, lambda: not self._end_orphans())
        if (run / "munge").exists():
            shutil.rmtree((run / "munge").read_text(), ignore_errors=True)
            (run / "munge").unlink()
        if (run / "network.json").exists():
            made = json.loads((run / "network.json").read_text())
            for kind, names in (("netns", made["namespaces"]), ("link", made["links"])):
                for name in names:
                    _quiet("ip", kind, "del", name)
            (run / "network.json").unlink()

    def _end_orphans(self) -> int:
        """Kill processes of this cluster's jobs that outlived its daemons; how many there were."""
        found = 0
        for process in psutil.process_iter():
            try:
                environ = process.environ()
                if environ.get("SLURM_CONF") == str(self.conf) and "SLURM_JOB_ID" in environ:
                    process.kill()
                    found += 1
            except psutil.Error:
                continue
        return found

    def _patiently(self, seconds: float, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while not ready() and time.monotonic() < until:
            time.sleep(0.1)


def _alive(pid: int) -> bool:
    """Whether a process is there and no zombie of ours."""
    try:
        return pid > 0 and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, env={"PATH": SEARCH}, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _quiet(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, env={"PATH": SEARCH}, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.cluster", description=__doc__)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=4, help="CPUs of each node; may exceed this machine's")
    options = parser.parse_args()
    cluster = Cluster(options.folder, nodes=options.nodes, cpus=options.cpus)
    if options.action == "stop":
        return cluster.stop()
    if reason := missing():
        sys.exit(reason)
    try:
        cluster.start()
    except BaseException:
        cluster.stop()
        raise
    print(f"export SLURM_CONF={cluster.conf}")


if __name__ == "__main__":
    main()
