"""How fast `data.pack` works: samples a second and a CPU second, for kept, resized and decoded pictures and for arrays.

    python tests/benchmarks/pack.py [--tar PHOTOGRAPHS.tar] [--folder IMAGE_FOLDER] [--processes 2]

Without --tar and --folder it measures arrays only. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from data.pack import PackConfig, pack
from data.pictures.convert import ConvertConfig


def measured(source: Path, kind: str, convert: ConvertConfig, processes: int) -> dict[str, float]:
    """Pack into a temporary folder; rates from the wall clock and from the CPU time of all processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out")
        config = PackConfig(
            source=str(source), out=out, kind=kind, convert=convert, processes=processes, samples_per_shard=250
        )
        cpu, began = sum(os.times()[:4]), time.perf_counter()
        written = pack(config, show_progress=False)
        seconds, cpu = time.perf_counter() - began, sum(os.times()[:4]) - cpu
    records = [record for of_split in written.values() for record in of_split]
    samples, size = sum(r.nsamples for r in records), sum(r.filesize for r in records)
    return {
        "samples": samples,
        "megabytes": round(size / 1e6, 1),
        "seconds": round(seconds, 2),
        "samples_per_second": round(samples / seconds, 1),
        "samples_per_cpu_second": round(samples / cpu, 1),
        "megabytes_per_second": round(size / 1e6 / seconds, 1),
    }


def main() -> None:
    """Measure, print a table, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tar", type=Path, help="a tar of photographs, re-sharded")
    parser.add_argument("--folder", type=Path, help="an image folder")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        digits = np.random.default_rng(0).integers(0, 256, (20_000, 28, 28), dtype=np.uint8)
        np.save(Path(folder) / "digits.npy", digits)
        cases = {"array to png": (Path(folder) / "digits.npy", "array", ConvertConfig())}
        if options.folder:
            cases["folder, bytes kept"] = (options.folder, "folder", ConvertConfig())
        if options.tar:
            cases |= {
                "tar, bytes kept": (options.tar, "tars", ConvertConfig()),
                "tar, kept, each decoded": (options.tar, "tars", ConvertConfig(check="decode")),
                "tar, cropped to 256, jpg 95": (options.tar, "tars", ConvertConfig(size=256, format="jpg")),
            }
        found = {name: measured(*case, options.processes) for name, case in cases.items()}
    print(f"{'case':30}{'samples':>9}{'samples/s':>11}{'/CPU s':>9}{'MB/s':>8}   ({options.processes} processes)")
    for name, row in found.items():
        rates = (row["samples_per_second"], row["samples_per_cpu_second"], row["megabytes_per_second"])
        print(f"{name:30}{row['samples']:9.0f}{rates[0]:11.0f}{rates[1]:9.0f}{rates[2]:8.1f}")
    print(json.dumps({"processes": options.processes, **found}))


if __name__ == "__main__":
    main()
