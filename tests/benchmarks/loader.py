"""Images per second of ways to read photographs: python tests/benchmarks/loader.py --tar photographs.tar

Each way is pinned to one core (two for the last two), takes turns with the others, and its best round counts: other
work on the machine then weighs least; the quotients are also given as medians over the rounds. A round is every
photograph once, after a first pass that fills the pipeline. Everything is in the page cache. Then the first batch of a
run that starts, and of one that resumes in the middle of an epoch of 100,000 samples: `resume_seconds` is how much
later the second comes. MosaicML Streaming and LitData join where they are installed, each with shards in its own format
of the same JPEGs. The last line is one JSON object; `of_best_other` is ours over the best of the others on one core.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.shards.scanning import build_index

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as functional
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from data.config import DataConfig
from data.pictures.config import TransformConfig
from data.pictures.transforms import apply
from data.reading.stream import Stream

SIZE, BATCH, SHARDS = 256, 50, 5


def square(width: int, height: int) -> tuple[int, int, int, int]:
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def pil_pixels(image: Image.Image) -> torch.Tensor:
    """The same square and kernel as ours, by PIL, in one pass."""
    small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=square(*image.size))
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)


def prepare(tar: Path, folder: Path) -> list[bytes]:
    """Shards with an index, an image folder, and the pictures' bytes."""
    with tarfile.open(tar) as archive:
        found = [(m.name, archive.extractfile(m).read()) for m in archive if m.isfile()]  # type: ignore[union-attr]
    tars = []
    for shard in range(SHARDS):
        tars.append(folder / f"shard-{shard}.tar")
        with tarfile.open(tars[-1], "w") as archive:
            for number, (_, contents) in list(enumerate(found))[shard::SHARDS]:
                path = folder / "folder" / f"class-{number % 10}" / f"{number:05d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents)
                archive.add(path, arcname=path.name)
    build_index(tars, base=folder).save(folder / "index.json")
    return [contents for _, contents in found]


def bare(pictures: list[bytes]) -> Iterator[int]:
    """Our decoder and our resize in a plain loop: the limit."""
    while True:
        for contents in pictures:
            pixels = torch.from_numpy(simplejpeg.decode_jpeg(contents))
            left, upper, right, lower = square(pixels.shape[1], pixels.shape[0])
            picture = pixels[upper:lower, left:right].permute(2, 0, 1)[None]
            functional.interpolate(picture, size=(SIZE, SIZE), mode="bicubic", antialias=True)
            yield 1


def ours(folder: Path, threads: int, resize: str) -> Iterator[int]:
    transform = TransformConfig(size=SIZE, resize=resize)  # type: ignore[arg-type]
    config = DataConfig(index=str(folder / "index.json"), batch_size=BATCH, threads=threads, transform=transform)
    with Stream(config, seed=0) as stream:
        for batch in stream.batches():
            yield len(batch.keys)


def webdataset_way(folder: Path, workers: int) -> Iterator[int]:
    import webdataset

    urls = [str(path) for path in sorted(folder.glob("shard-*.tar"))]
    pipeline = (
        webdataset.WebDataset(urls, shardshuffle=False)
        .decode("pil")
        .to_tuple("jpg")
        .map_tuple(pil_pixels)
        .batched(BATCH, collation_fn=default_collate)
        .repeat()
    )
    loader: Any = pipeline if not workers else webdataset.WebLoader(pipeline, batch_size=None, num_workers=workers)
    for (pixels,) in loader:
        yield len(pixels)


def folder_way(folder: Path) -> Iterator[int]:
    from torchvision.datasets import ImageFolder

    while True:
        for pixels, _ in DataLoader(ImageFolder(str(folder / "folder"), pil_pixels), BATCH, shuffle=True):
            yield len(pixels)


def streaming_way(folder: Path) -> Iterator[int]:
    from streaming import MDSWriter, StreamingDataset

    class Pictures(StreamingDataset):
        def __getitem__(self, at: Any) -> torch.Tensor:
            return pil_pixels(Image.open(io.BytesIO(super().__getitem__(at)["jpg"])))

    shards = folder / "mds"
    if not shards.is_dir():
        with MDSWriter(out=str(shards), columns={"jpg": "bytes"}) as writer:
            for path in sorted((folder / "folder").rglob("*.jpg")):
                writer.write({"jpg": path.read_bytes()})
    while True:
        for pixels in DataLoader(Pictures(local=str(shards), shuffle=True, batch_size=BATCH), BATCH):
            yield len(pixels)


def litdata_way(folder: Path) -> Iterator[int]:
    import litdata

    class Pictures(litdata.StreamingDataset):
        def __getitem__(self, at: Any) -> torch.Tensor:
            return pil_pixels(Image.open(io.BytesIO(super().__getitem__(at))))

    shards = folder / "litdata"
    if not shards.is_dir():
        files = [str(path) for path in sorted((folder / "folder").rglob("*.jpg"))]
        litdata.optimize(_read, files, str(shards), num_workers=1, chunk_bytes="16MB")
    while True:
        for pixels in litdata.StreamingDataLoader(Pictures(str(shards), shuffle=True), batch_size=BATCH):
            yield len(pixels)


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


OPTIONAL = {"streaming": streaming_way, "litdata": litdata_way}
OTHERS = ("webdataset", "folder", *OPTIONAL)


def rate(make: Callable[[], Iterator[int]], cores: set[int], images: int) -> tuple[float, float]:
    """Images per second of wall time, and per second of this process's CPU time, after the pipeline has filled."""
    os.sched_setaffinity(0, cores)
    source = make()
    warm = 0
    while warm < images:
        warm += next(source)
    done, began, worked = 0, time.perf_counter(), time.process_time()
    while done < images:
        done += next(source)
    wall, cpu = time.perf_counter() - began, time.process_time() - worked
    source.close()  # type: ignore[attr-defined]
    return done / wall, done / max(cpu, 1e-9)


def first_batch(folder: Path, rounds: int) -> dict[str, float]:
    """Seconds until the first batch of a run from step 0, and of one resumed in mid-epoch: 100 shards of 1,000."""
    picture = simplejpeg.encode_jpeg(np.zeros((64, 64, 3), np.uint8))
    with tarfile.open(folder / "small-0.tar", "w") as archive:
        for number in range(1000):
            member = tarfile.TarInfo(f"{number:05d}.jpg")
            member.size = len(picture)
            archive.addfile(member, io.BytesIO(picture))
    tars = [folder / f"small-{shard}.tar" for shard in range(100)]
    for tar in tars[1:]:
        tar.hardlink_to(tars[0])
    build_index(tars, base=folder).save(folder / "small.json")
    config = DataConfig(index=str(folder / "small.json"), batch_size=BATCH, transform=TransformConfig(size=64))
    best = {"first_batch_seconds": float("inf"), "first_batch_after_resume_seconds": float("inf")}
    for _ in range(rounds):
        for name, step in zip(best, (0, 50_000 // BATCH), strict=True):
            began = time.perf_counter()
            with Stream(config, seed=0) as stream:
                next(stream.batches(step))
                best[name] = min(best[name], time.perf_counter() - began)
    first, resumed = best.values()
    return {**{name: round(value, 4) for name, value in best.items()}, "resume_seconds": round(resumed - first, 4)}


def difference(pictures: list[bytes]) -> tuple[float, int, float, int]:
    """Mean and most of the pixel differences between ours and PIL on the same decoded square: bicubic, then area."""
    found: dict[str, list[np.ndarray]] = {"bicubic": [], "area": []}
    for contents in pictures[:100]:
        pixels = simplejpeg.decode_jpeg(contents)
        left, upper, right, lower = square(pixels.shape[1], pixels.shape[0])
        crop = Image.fromarray(np.ascontiguousarray(pixels[upper:lower, left:right]))
        for resize, kernel in (("bicubic", Image.Resampling.BICUBIC), ("area", Image.Resampling.BOX)):
            out = np.empty((SIZE, SIZE, 3), np.uint8)
            apply(pixels, TransformConfig(size=SIZE, resize=resize), None, out)  # type: ignore[arg-type]
            theirs = np.asarray(crop.resize((SIZE, SIZE), kernel)).astype(int)
            found[resize].append(np.abs(out.astype(int) - theirs))
    bicubic, area = found["bicubic"], found["area"]
    return (
        float(np.mean([d.mean() for d in bicubic])),
        int(max(d.max() for d in bicubic)),
        float(np.mean([d.mean() for d in area])),
        int(max(d.max() for d in area)),
    )


def compared(best: dict[str, list[float]], rounds: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Images per second of each way, and the quotients, which are printed too."""
    figures: dict[str, Any] = {way: round(wall, 1) for way, (wall, _) in best.items()}
    for over, under in (
        ("ours", "bare"),
        ("ours", "webdataset"),
        ("ours_area", "webdataset"),
        ("ours_2_threads", "ours"),
    ):
        if over not in best or under not in best:
            continue
        pairs = zip(rounds[over], rounds[under], strict=True)
        wall, cpu = (float(np.median(of)) for of in zip(*[(a[0] / b[0], a[1] / b[1]) for a, b in pairs], strict=True))
        print(
            f"{over} / {under}: {best[over][0] / best[under][0]:.3f}; median of rounds {wall:.3f}, CPU time {cpu:.3f}"
        )
        figures[f"{over}/{under}"] = [round(wall, 3), round(cpu, 3)]
    if "ours" in best and (others := [best[way][0] for way in OTHERS if way in best]):
        figures["of_best_other"] = round(best["ours"][0] / max(others), 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tar", type=Path, required=True, help="a tar of photographs (JPEG)")
    parser.add_argument("--ways", nargs="*", help="only these, such as: bare ours")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    one, two = {cores[-1]}, set(cores[:2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = prepare(options.tar, folder)
        ways: dict[str, tuple[Callable[[], Iterator[int]], set[int]]] = {
            "bare": (lambda: bare(pictures), one),
            "ours": (lambda: ours(folder, 1, "bicubic"), one),
            "ours_area": (lambda: ours(folder, 1, "area"), one),
            "webdataset": (lambda: webdataset_way(folder, 0), one),
            "folder": (lambda: folder_way(folder), one),
            "ours_2_threads": (lambda: ours(folder, 2, "bicubic"), two),
            "webdataset_2_workers": (lambda: webdataset_way(folder, 2), two),
        }
        for way, make_way in OPTIONAL.items():
            if find_spec(way) is not None:
                ways[way] = (partial(make_way, folder), one)
        ways = {way: of for way, of in ways.items() if way in (options.ways or ways)}
        rounds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, (make, on) in ways.items():
                rounds[way].append(rate(make, on, len(pictures)))
        best = {way: [max(values) for values in zip(*of, strict=True)] for way, of in rounds.items()}
        os.sched_setaffinity(0, set(cores))
        begins = first_batch(folder, options.rounds)
        mean, most, area_mean, area_most = difference(pictures)
    print(
        f"{len(pictures)} photographs to {SIZE} px; best of {options.rounds} rounds; "
        f"load {os.getloadavg()[0]:.1f} on {len(cores)} cores"
    )
    for way, (wall, cpu) in best.items():
        shown = "" if way == "webdataset_2_workers" else f"{cpu:9.1f} /s of its CPU time"
        print(f"{way:<22}{wall:9.1f} images/s {shown}")
    figures = compared(best, rounds)
    print(f"first batch {begins['first_batch_seconds']} s; in mid-epoch {begins['resume_seconds']} s later")
    print(
        f"bicubic against PIL's: mean difference {mean:.4f} of 255, most {most}; "
        f"area against PIL's box: {area_mean:.2f}, {area_most}"
    )
    figures["per_cpu_second"] = {way: round(c, 1) for way, (_, c) in best.items() if way != "webdataset_2_workers"}
    figures |= begins
    figures["difference"] = {"bicubic": [mean, most], "area": [area_mean, area_most]}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
