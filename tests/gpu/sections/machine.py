"""Section 0: what the machine is, and its ceilings."""

from __future__ import annotations

import datetime
import subprocess

import torch

from launch.run.provenance import commit, hardware, versions
from tests.gpu.sections.bench import Bench, read_lines
from tests.gpu.sections.timing import best

COPY, PRODUCT = "copy, TB/s read and written", "bf16 product, TFLOP/s"
"""Names of the two ceilings."""


def ceilings(bench: Bench) -> None:
    """Versions and card; then copied bytes and multiplied matrices a second, of which later sections take shares."""
    found = versions()
    torch.zeros(1, device=bench.device)  # where CUDA can't be used after a fork, this says so
    noted = bench.gathered_file("COMMIT")
    bench.row(
        "machine",
        "machine",
        card=hardware(),
        commit=(commit() or (noted.read_text().strip() if noted else "unknown"))[:16],
        date=str(datetime.date.today()),
        versions=", ".join(f"{name} {version}" for name, version in found.items()),
        triton=triton_version(),
        nvidia=nvidia(),
    )
    bench.row("ceilings", COPY, measured=copied(bench), nominal=nominal(bench, "bytes"))
    bench.row("ceilings", PRODUCT, measured=multiplied(bench), nominal=nominal(bench, "flops"))


NOMINAL = {"H200": (4.8, 989.0), "H100": (3.35, 989.0), "A100": (2.04, 312.0)}
"""Terabytes and dense bf16 TFLOP a second, from data sheets."""


def ceiling(bench: Bench, name: str) -> float | None:
    """What this section measured, for the later ones."""
    found = [line["measured"] for line in read_lines(bench.out) if line.get("name") == name and "measured" in line]
    return found[-1] if found else None


def nominal(bench: Bench, what: str) -> float | None:
    """The data sheet's figure for the card; None for one that isn't listed."""
    name = torch.cuda.get_device_name(0) if bench.device == "cuda" else ""
    found = next((values for known, values in NOMINAL.items() if known in name), None)
    return None if found is None else found[what == "flops"]


def copied(bench: Bench) -> float:
    """Terabytes a second that a copy reads and writes."""
    x = torch.zeros((1 << 20) if bench.rehearse else (1 << 30), dtype=torch.uint8, device=bench.device)
    y = torch.empty_like(x)
    return round(2 * x.numel() / best(lambda: y.copy_(x), bench.device) / 1e12, 4)


def multiplied(bench: Bench) -> float:
    """TFLOP a second of a bf16 product."""
    size = 256 if bench.rehearse else 8192
    x = torch.randn(size, size, device=bench.device, dtype=torch.bfloat16)
    return round(2 * size**3 / best(lambda: x @ x, bench.device) / 1e12, 4)


def triton_version() -> str:
    """Triton's version, or that there is none."""
    try:
        import triton
    except ImportError:
        return "none"
    return str(triton.__version__)


def nvidia() -> str:
    """Driver, clock, power limit and memory in use, as nvidia-smi says."""
    asked = "--query-gpu=driver_version,clocks.max.sm,power.limit,memory.used"
    try:
        done = subprocess.run(
            ["nvidia-smi", asked, "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "no nvidia-smi"
    return done.stdout.strip()
