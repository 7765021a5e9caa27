"""The reference set of a distance: measured now, or its statistics from a file.

Our file holds ADM's names (mu, sigma of the pooled features; mu_s, sigma_s of the spatial ones) next to ours (kept,
count, about), so that other tools can read it. ADM's own reference files are read as they are.
"""

import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.pictures.config import TransformConfig
from data.shards.tally import ALLOWED, Tally
from launch.command.cli import UserError
from launch.files.atomic import writing
from launch.files.places import place_name
from launch.ranks.joined import Ranks
from stage1_tokenizer.measuring.distances import KEPT, NEEDED, Gaussian, SetStatistics, SetSums
from stage1_tokenizer.measuring.features import FeatureNetwork
from stage1_tokenizer.measuring.picture_files import Size, finished, shown
from stage1_tokenizer.measuring.picture_sets import (
    PictureHash,
    brief_of,
    classes_of,
    count_of,
    every_picture,
    filled,
    size_of,
)

_NAMES = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class MeasuredSet:
    """A set's statistics, and what it is (JSON values): set, hash, pictures, kept, transform, size."""

    statistics: SetStatistics
    """For the distances."""
    about: dict[str, Any]
    """For the result. All but `set`, which tells its name, must agree between comparable results."""
    classes: tuple[str, ...] = ()
    """Names of its classes, as far as they are known."""


def measure_set(
    source: str,
    transform: TransformConfig,
    network: FeatureNetwork,
    ranks: Ranks,
    *,
    kept: int = KEPT,
    advance: Callable[[int], None] = lambda pictures: None,
    **options: Any,
) -> MeasuredSet:
    """Measure the pictures of shards, a folder or an `.npz`, each once over all ranks; `options` are every_picture's.

    `advance` is called with the number of pictures of each batch. UserError for pictures of several sizes, and where
    too many are left out.
    """
    sums, digest = SetSums(network, ranks.device, kept), PictureHash(ranks.device)
    rows, tally = options["batch_size"], Tally()
    sizes: set[Size] = set()
    batches = every_picture(source, transform, rank=ranks.rank, world_size=ranks.world_size, tally=tally, **options)
    with torch.no_grad():
        for batch in batches:
            digest.add(batch.pixels_BCHW)
            sizes.add((batch.pixels_BCHW.shape[2], batch.pixels_BCHW.shape[3]))
            features = network(filled(batch.pixels_BCHW, rows).to(ranks.device, non_blocking=True))
            sums.add({kind: h_BD[: len(batch.keys)] for kind, h_BD in features.items()}, batch.keys)
            advance(len(batch.keys))
    statistics = sums.result(ranks.sum, ranks.gather)
    settle(tally, ranks, options.get("allow_left_out", ALLOWED), quiet=True)
    if not statistics.count:
        raise UserError(f"{source} holds no pictures: give another set")
    size, *others = sorted(set().union(*ranks.gather(sizes)))
    if others:
        raise UserError(f"{source} holds pictures of several sizes, {shown(size)} and {shown(others[0])}: resize them")
    prepared = options.get("prepare") or finished(source) is None
    about = describe(source, digest.result(ranks.sum), statistics, transform if prepared else None, size)
    return MeasuredSet(statistics, about, classes_of(source))


def settle(tally: Tally, ranks: Ranks, allow: float, *, of: str = "pictures", quiet: bool = False) -> int:
    """Show on rank 0 what all ranks took and left out (`quiet`: only if something is); how many pictures were left out.

    `of` is what they are, where not pictures. UserError on every rank if they are more than `allow`, a share.
    """
    whole = sum(ranks.gather(tally), Tally())
    warnings = whole.settle(allow)
    if ranks.rank == 0 and not (quiet and not whole.lost(of)):
        print(*whole.lines(), *warnings, sep="\n", file=sys.stderr, flush=True)
    return whole.lost(of)


def describe(
    source: str, sha256: str, statistics: SetStatistics, transform: TransformConfig | None, size: Size
) -> dict[str, Any]:
    """What a set is, for the result; finished pictures have no transform."""
    return {
        "set": brief_of(source),
        "hash": sha256,
        "pictures": statistics.count,
        "kept": len(statistics.kept_ND),
        "transform": transform.to_dict() if transform else "none: finished pictures",
        "size": list(size),
    }


def reference_of(
    source: str,
    transform: TransformConfig,
    network: FeatureNetwork,
    ranks: Ranks,
    *,
    size: Size,
    resize: bool = False,
    **options: Any,
) -> MeasuredSet:
    """A reference set: its statistics if `source` holds them, else measured by `measure_set` with `options`.

    `size` is that of the pictures that are compared with it. With `resize` finished pictures are prepared by the
    transform. Raises UserError for another size, and for statistics of another network.
    """
    arrays = _arrays(source) if Path(source).suffix == ".npz" else {}
    if "about" in arrays:
        reference = _ours(source, arrays, network)
        _check_size(source, reference.about.get("size"), size, ranks, "measure its pictures at that size")
        return reference
    options["prepare"] = resize
    if "mu" in arrays and network.widths["pool"] == len(arrays["mu"]):
        pictures = measure_set(source, transform, network, ranks, **options) if "arr_0" in arrays else None
        reference = _adm(source, arrays, network, pictures)
        _check_size(source, reference.about["size"], size, ranks, "give the reference's pictures")
        return reference
    if "mu" in arrays and "arr_0" not in arrays:
        raise UserError(
            f"reference={source} holds statistics of {len(arrays['mu'])} features, not of {network.about['network']}: "
            "set features to inception, or give the reference's pictures"
        )
    count = count_of(source)
    if count < 2:
        raise UserError(f"reference={source} holds {count} picture, and a distance is between sets: {NEEDED}")
    found = (transform.size,) * 2 if resize or finished(source) is None else size_of(source)
    if found is not None:  # else none can be read, which measuring them says
        way = "set resize=true to prepare them as the tokenizer's transform does, or give pictures of that size"
        _check_size(source, found, size, ranks, way)
    return measure_set(source, transform, network, ranks, **options)


def _check_size(source: str, found: Sequence[int] | None, size: Size, ranks: Ranks, way: str) -> None:
    """UserError for a reference of pictures of another size; a word where its size isn't known."""
    if found is None:
        if ranks.rank == 0:
            what = f"note: reference={source} doesn't say the size of its pictures"
            print(f"{what}; distances are right only if it is {shown(size)}", file=sys.stderr, flush=True)
    elif tuple(found) != tuple(size):
        raise UserError(
            f"reference={source} is of {shown(found)} pixels and what is measured of {shown(size)}, and distances "
            f"between sizes mean nothing: {way}"
        )


def _arrays(source: str) -> dict[str, Any]:
    """The arrays of an `.npz`, without its pictures: for these the value is None."""
    try:
        with np.load(source, allow_pickle=False) as file:
            return {name: None if name == "arr_0" else file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"reference={source} can't be read ({error}): create or download it again") from error


def _gaussians(arrays: dict[str, Any]) -> dict[str, Gaussian]:
    return {
        kind: Gaussian(torch.from_numpy(arrays[mean]).double(), torch.from_numpy(arrays[covariance]).double())
        for kind, (mean, covariance) in _NAMES.items()
        if mean in arrays and covariance in arrays
    }


def _ours(source: str, arrays: dict[str, Any], network: FeatureNetwork) -> MeasuredSet:
    about = json.loads(str(arrays["about"]))
    if about["network"] != network.about:
        raise UserError(
            f"reference={source} was measured with {about['network']['network']} ({about['network']['sha256'][:12]}…), "
            f"not with {network.about['network']} ({network.about['sha256'][:12]}…): set features to match, or "
            "give the reference's pictures"
        )
    kept_ND = torch.from_numpy(arrays["kept"])
    reference = with_size(about["reference"])
    if isinstance(reference["set"], str):  # a path, in files from before
        reference = {**reference, "set": {"name": place_name(reference["set"])}}
    statistics = SetStatistics(int(arrays["count"]), _gaussians(arrays), kept_ND)
    return MeasuredSet(statistics, reference, tuple(about.get("classes", ())))


def with_size(about: dict[str, Any]) -> dict[str, Any]:
    """What a set is, with its size if it was prepared by a transform: files of before sizes were kept lack it."""
    transform = about.get("transform")
    if "size" not in about and isinstance(transform, dict) and "size" in transform:
        return {**about, "size": [transform["size"]] * 2}
    return about


def _adm(source: str, arrays: dict[str, Any], network: FeatureNetwork, pictures: MeasuredSet | None) -> MeasuredSet:
    """Statistics of ADM's suite; kid, precision and recall are measured on the pictures in the same file."""
    digest = hashlib.sha256()
    for name in sorted({"mu", "sigma", "mu_s", "sigma_s"} & set(arrays)):
        digest.update(arrays[name].tobytes())
    kept_ND = pictures.statistics.kept_ND if pictures else torch.zeros(0, network.widths["pool"])
    about = {
        "set": {"name": place_name(source)},
        "hash": f"statistics {digest.hexdigest()}",
        "pictures": None,
        "kept": len(kept_ND),
        "transform": "none: statistics from a file",
        "size": pictures.about["size"] if pictures else None,
    }
    return MeasuredSet(SetStatistics(None, _gaussians(arrays), kept_ND), about)


def save_reference(path: Path, reference: MeasuredSet, network: FeatureNetwork) -> None:
    """Write a set's statistics to a file that `reference` accepts."""
    statistics = reference.statistics
    arrays: dict[str, Any] = {"kept": statistics.kept_ND.numpy(), "count": np.array(statistics.count)}
    for kind, gaussian in statistics.gaussians.items():
        mean, covariance = _NAMES[kind]
        arrays |= {mean: gaussian.mean_D.numpy(), covariance: gaussian.covariance_DD.numpy()}
    classes = {"classes": list(reference.classes)} if reference.classes else {}
    about = json.dumps({"network": network.about, "reference": reference.about, **classes})
    with writing(path) as file:
        np.savez(file, about=np.array(about), **arrays)
