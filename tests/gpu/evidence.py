"""Everything that only a GPU can show, within ten minutes: one command, in sections with deadlines of their own.

    bash tests/gpu/gather.sh --cifar FILE --peers DIR        beforehand, where there is a network
    python -m tests.gpu.evidence --out OUT                   on the machine with the GPU, from the repository's root
    python -m tests.gpu.evidence --rehearse --out OUT        all of it, tiny, on a CPU

OUT/evidence.jsonl   each result at once, and a closing line for each section
OUT/table.md         the table for docs/performance.md, also printed; the exit code says whether every section was ok
OUT/section-N.log    what a section printed

Each section is a process of its own, forked before a device is used, so that imports are paid for once: what crashes,
hangs or overruns loses only itself. They run in the order that loses least when the machine is taken away.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.gpu.sections.bench import ROOT, Bench, TimeUp, read_lines, short, write_line
from tests.gpu.sections.table import table

GATHERED = ROOT / "tests" / "gpu" / "gathered"
PRELOADED = ("torch", "transformers", "accelerate", "tests.gpu.sections.parts", "tests.gpu.sections.sampling")
"""Imported once, before the sections are forked; none of them may use a device."""
WARNING = 2.0
"""Seconds before its deadline at which a section is told, so that it can still say so itself."""


@dataclass(frozen=True)
class Section:
    """A section of the evidence."""

    number: int | str
    title: str
    seconds: float
    """What it may take; what earlier sections left is added."""
    run: str | Callable[[Bench], None]
    """The function, or its place as module:name."""
    beside: tuple[Section, ...] = ()
    """What compiles beside it for later sections. Timed sections have none, and begin once those have ended."""

    def function(self) -> Callable[[Bench], None]:
        """The function."""
        if callable(self.run):
            return self.run
        module, _, name = self.run.partition(":")
        found: Callable[[Bench], None] = getattr(importlib.import_module(f"tests.gpu.sections.{module}"), name)
        return found


COMPILING = (Section("warm-2", "compiling for 2", 60, "warm:steps"), Section("warm-4", "for 4", 60, "warm:sampling"))

SECTIONS = (
    Section(0, "the machine and its ceilings", 15, "machine:ceilings"),
    Section(1, "tests on the device", 60, "checks:checks", COMPILING),
    Section(2, "stage-one step, beside peers", 120, "steps:steps"),
    Section(5, "resume to the bit", 30, "resume:resume", COMPILING[1:]),
    Section(4, "sampler and LlamaGen-B's training", 100, "sampling:sampling"),
    Section(6, "CIFAR-10 by the commands", 195, "cifar:cifar"),
    Section(3, "kernels beside their floors", 25, "kernels:kernels"),
)
"""In the order that loses least. 7 is the table."""


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "runs/evidence")), help="results")
    parser.add_argument("--gathered", type=Path, default=GATHERED, help="what gather.sh collected")
    parser.add_argument("--seconds", type=float, default=560, help="for everything")
    parser.add_argument("--sections", type=int, nargs="+", help="only these, by their numbers")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, through the same code")
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # this process is the section of that number
    parser.add_argument("--until", type=float, default=float("inf"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def prepare(rehearse: bool, gathered: Path) -> None:
    """The environment of this process and of all that it starts; wheels that are missing here."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "PYTHONUNBUFFERED": "1"}  # asking for CUDA must not start it
    os.environ.pop("TRITON_INTERPRET", None)  # kernels run on the device, or not at all
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/vqloom-inductor-{os.getuid()}")
    if rehearse:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    place = Path(tempfile.gettempdir()) / f"vqloom-wheels-{os.getuid()}"
    for wheel in sorted((gathered / "wheels").glob("*.whl")):
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.version(wheel.name.split("-")[0])
            continue
        zipfile.ZipFile(wheel).extractall(place)
    if place.is_dir():
        sys.path.append(str(place))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(place)]))


def preload() -> None:
    """Import what sections need, so that none pays for it. What can't be imported is the sections' to report."""
    for module in PRELOADED:
        try:
            importlib.import_module(module)
        except Exception as error:
            print(f"{module} can't be imported: {short(error)}", flush=True)


def inside(section: Section, bench: Bench) -> int:
    """Run a section in this process, to its end or its deadline; 0 if all went well. Writes the closing line."""
    began = time.monotonic()

    def up(number: int, frame: FrameType | None) -> None:
        raise TimeUp(f"cut short at its deadline, after {time.monotonic() - began:.0f} s")

    signal.signal(signal.SIGALRM, up)
    if bench.left() < 1e6:
        signal.setitimer(signal.ITIMER_REAL, max(bench.left() - WARNING, 0.05))
    error = None
    try:
        if bench.rehearse:
            importlib.import_module("tests.gpu.sections.parts").compile_quickly()
        section.function()(bench)
    except TimeUp as reason:
        error = str(reason)
    except BaseException as raised:
        traceback.print_exc()
        error = short(raised)
    signal.setitimer(signal.ITIMER_REAL, 0)
    close(section, bench.out, began, error)
    return error is not None


def close(section: Section, out: Path, began: float, error: str | None) -> None:
    """A section's last line."""
    about = {"section": section.number, "title": section.title, "ok": error is None}
    seconds = round(time.monotonic() - began, 1)
    write_line(out, {**about, "seconds": seconds, **({"error": error} if error else {})})


def start(section: Section, bench: Bench, fork: bool) -> int:
    """Start a section as a process group of its own, with its output in a file; the process's id."""
    log = (bench.out / f"section-{section.number}.log").open("w")
    if not fork:
        line = [sys.executable, "-m", "tests.gpu.evidence", "--inside", str(section.number), "--out", str(bench.out)]
        line += ["--until", str(bench.deadline), *(["--gathered", str(bench.gathered)] if bench.gathered else [])]
        line += ["--rehearse"] if bench.rehearse else []
        return subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, start_new_session=True).pid
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        code = 1
        with contextlib.suppress(BaseException):
            code = inside(section, bench)
        os._exit(code)
    log.close()
    return pid


def attempt(section: Section, bench: Bench, fork: bool) -> None:
    """Run a section as a process until its deadline."""
    before = len(closed(bench.out, section.number))
    watch(section, start(section, bench, fork), bench, before)


def watch(section: Section, pid: int, bench: Bench, before: int | None = None) -> None:
    """Wait for a section until its deadline, then end all that it started. With `before` it gets a closing line."""
    began, status = time.monotonic(), None
    while status is None and bench.left() > 0:
        done, code = os.waitpid(pid, os.WNOHANG)
        status = code if done else None
        time.sleep(0 if done else 0.02)
    end(pid, waited=status is not None)
    if before is not None and len(closed(bench.out, section.number)) == before:
        killed = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
        why = f"ended by signal {killed}" if killed else f"ended with status {status}"
        close(section, bench.out, began, "killed at its deadline" if status is None else why)


def end(pid: int, *, waited: bool) -> None:
    """End a section's processes, those that it started too."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if not waited:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def run(sections: Sequence[Section], base: Bench, seconds: float) -> bool:
    """Run the sections one after the other; whether all went well."""
    began = planned = time.monotonic()
    stretch = 4 if base.rehearse else 1  # one core of any machine
    fork = True
    for section in sections:
        planned += section.seconds * stretch
        deadline = min(planned, began + seconds * stretch)
        bench = replace(base, section=section.number, deadline=deadline)
        print(f"section {section.number}, {section.title}: {bench.left():.0f} s", flush=True)
        if bench.left() < WARNING:
            close(section, base.out, time.monotonic(), "no time was left for it")
            continue
        started = [(one, start(one, replace(bench, section=one.number), fork)) for one in section.beside]
        attempt(section, bench, fork)
        for one, pid in started:
            watch(one, pid, replace(bench, section=one.number))
        if section.number == 0 and not ok(base.out, 0):
            fork = False  # perhaps an import had started CUDA, which then can't be used after a fork
            attempt(section, bench, fork)
    return all(ok(base.out, section.number) for section in sections)


def closed(out: Path, number: int | str) -> list[dict[str, Any]]:
    """A section's closing lines: one, or two if it was tried again."""
    return [line for line in read_lines(out) if line["section"] == number and "ok" in line]


def ok(out: Path, number: int | str) -> bool:
    """Whether a section went well, when it last ran."""
    return bool([line for line in closed(out, number)[-1:] if line["ok"]])


def main(argv: Sequence[str] | None = None) -> int:
    """Run all sections, then write and print the table; 0 if every section went well."""
    args = options(argv)
    os.chdir(ROOT)
    prepare(args.rehearse, args.gathered)
    gathered = args.gathered.resolve() if args.gathered.is_dir() else None
    bench = Bench("", args.out.resolve(), args.until, args.rehearse, gathered)
    bench.out.mkdir(parents=True, exist_ok=True)
    if args.inside is not None:
        every = [one for section in SECTIONS for one in (section, *section.beside)]
        section = next(one for one in every if str(one.number) == args.inside)
        bench.section = section.number
        return inside(section, bench)
    for old in (bench.out / "evidence.jsonl", bench.out / "table.md"):
        old.unlink(missing_ok=True)
    preload()
    chosen = [one for one in SECTIONS if args.sections is None or one.number in (0, *args.sections)]
    good = run(chosen, bench, args.seconds)
    text = table(read_lines(bench.out), [(one.number, one.title) for one in chosen], rehearsed=args.rehearse)
    (bench.out / "table.md").write_text(text)
    print(text)
    with contextlib.suppress(OSError):
        subprocess.run(["nvidia-smi"], check=False, timeout=10)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
