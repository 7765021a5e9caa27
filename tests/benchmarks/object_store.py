"""Images per second of training streams from a bucket and from this disk: python -m tests.benchmarks.object_store

A set of JPEGs of 256 px is put into a real S3 server on the loopback (tests/s3/install.sh) and read by turns from the
disk and from the bucket: in the default training order, a request for each sample, in order, and through a disk cache.
Each way is a process of its own, pinned to one core with one decoding thread; the server has the other cores. Requests
are counted by a proxy in a pass of their own. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import psutil
import torch

from data.config import DataConfig
from data.pictures.config import TransformConfig
from data.reading.stream import Stream, every_sample
from data.remote import stores
from data.shards.scanning import build_index
from tests.s3.proxy import proxied
from tests.s3.server import Server, missing

SIZE, BATCH, SHARD = 256, 64, 512
TRANSFORM = TransformConfig(size=SIZE)
WAYS: dict[str, dict[str, Any]] = {
    "disk": {},
    "bucket": {},
    "bucket, a request for each sample": {"window": 1},
    "bucket, in order": {},
    "bucket, cached": {"cache": "CACHE", "cache_gigabytes": 0.05},
}


def make(folder: Path, count: int) -> int:
    """A set of crops of two photographs; the bytes of its shards."""
    import simplejpeg
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    generator = np.random.default_rng(0)
    for first in range(0, count, SHARD):
        with tarfile.open(folder / f"train-{first // SHARD:06d}.tar", "w") as archive:
            for number in range(first, min(first + SHARD, count)):
                whole = photographs[number % 2]
                y, x = (int(generator.integers(0, side - SIZE)) for side in whole.shape[:2])
                crop = np.ascontiguousarray(whole[y : y + SIZE, x : x + SIZE])
                contents = simplejpeg.encode_jpeg(crop, quality=95)
                member = tarfile.TarInfo(f"{number:06d}.jpg")
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))
    tars = sorted(folder.glob("*.tar"))
    build_index(tars, base=folder).save(folder / "train.json")
    return sum(tar.stat().st_size for tar in tars)


def batches(way: str, index: str, cache: str) -> Iterator[Any]:
    """Endless batches of one way."""
    if way.endswith("in order"):
        while True:
            yield from every_sample(index, TRANSFORM, batch_size=BATCH, threads=1)
    values = {name: cache if value == "CACHE" else value for name, value in WAYS[way].items()}
    with Stream(DataConfig(index=index, batch_size=BATCH, threads=1, transform=TRANSFORM, **values), seed=0) as stream:
        yield from stream.batches()


def child(way: str, index: str, cache: str, images: int) -> dict[str, float]:
    """One epoch after a first batch, in this process: rates, and the memory that it took."""
    torch.set_num_threads(1)
    process = psutil.Process()
    before = process.memory_info().rss
    source = batches(way, index, cache)
    next(source)
    done, began, worked, most = 0, time.perf_counter(), time.process_time(), 0
    while done < images:
        done += len(next(source).keys)
        most = max(most, process.memory_info().rss)
    wall, cpu = time.perf_counter() - began, time.process_time() - worked
    source.close()  # type: ignore[attr-defined]
    return {"images/s": done / wall, "images per CPU second": done / cpu, "MB of memory": (most - before) / 1e6}


def run_child(
    way: str, index: str, cache: str, images: int, core: int, environment: dict[str, str]
) -> dict[str, float]:
    """A fresh process on one core."""
    command = [sys.executable, "-m", "tests.benchmarks.object_store", "--child", way, index, cache, str(images)]
    environment = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        ["taskset", "-c", str(core), *command], env=environment, stdout=subprocess.PIPE, text=True
    )
    output, _ = started.communicate(timeout=600)
    return dict(json.loads(output.splitlines()[-1]))


def requests(way: str, index: str, server: Server, images: int, cache: str) -> float:
    """Requests for each sample, those for the index among them."""
    with proxied(server.address) as proxy:
        run_child(way, index, cache, images, 0, {**server.environment, "AWS_ENDPOINT_URL": proxy.url})
        return len(proxy.requests) / (images + BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, index, cache, images = options.child
        print(json.dumps(child(way, index, cache, int(images))))
        return
    cores = sorted(os.sched_getaffinity(0))
    folder = Path(tempfile.mkdtemp(prefix="object-store-"))
    try:
        if reason := missing(folder):
            raise SystemExit(reason)
        (folder / "set").mkdir()
        size = make(folder / "set", options.images)
        os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
        with Server(folder / "server") as server:
            report(folder, server, options.images, options.rounds, size, cores[-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def report(folder: Path, server: Server, images: int, rounds: int, size: int, core: int) -> None:
    """Measure every way and print the table."""
    os.environ.update(server.environment)
    bucket = server.bucket("set")
    for path in (folder / "set").iterdir():
        stores.put(f"{bucket}/{path.name}", path)
    index = {way: f"{bucket}/train.json" if way != "disk" else str(folder / "set/train.json") for way in WAYS}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    largest = 0
    for _ in range(rounds):
        for way in WAYS:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            found[way].append(run_child(way, index[way], str(folder / "cache"), images, core, server.environment))
            if way.endswith("cached"):
                largest = max(largest, sum(path.stat().st_size for path in (folder / "cache").glob("*.tar")))
    load = os.getloadavg()[0]
    print(f"{images} JPEGs of {SIZE} px, {size / images / 1e3:.0f} kB each; best of {rounds}; load {load:.1f}")
    figures: dict[str, Any] = {}
    for way, of_way in found.items():
        best = {name: max(one[name] for one in of_way) for name in of_way[0]}
        pairs = [one["images/s"] / disk["images/s"] for one, disk in zip(of_way, found["disk"], strict=True)]
        best |= {"of the disk's": statistics.median(pairs), "MB/s": best["images/s"] * size / images / 1e6}
        shutil.rmtree(folder / "cache", ignore_errors=True)
        count = 0.0 if way == "disk" else requests(way, index[way], server, images, str(folder / "cache"))
        figures[way] = {**{name: round(value, 3) for name, value in best.items()}, "requests a sample": round(count, 4)}
        print(
            f"{way:<36}{best['images/s']:8.1f} images/s {best['MB/s']:7.1f} MB/s  {statistics.median(pairs):.2f} of"
            f" the disk's  {best['MB of memory']:7.1f} MB  {count:.4f} requests a sample"
        )
    print(f"cache: {largest / 1e6:.1f} MB of {WAYS['bucket, cached']['cache_gigabytes'] * 1e3:.0f}")
    print(json.dumps({**figures, "cache MB": round(largest / 1e6, 1)}))


if __name__ == "__main__":
    main()
