"""The reference set of a distance: measured now, or its statistics from a file.

Our file holds ADM's names (mu, sigma of the pooled features; mu_s, sigma_s of the spatial ones) next to ours (kept,
count, about), so that other tools can read it. ADM's own reference files are read as they are.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.pictures.config import TransformConfig
from data.shards.identity import Identity
from data.shards.loading import load_index
from launch.command.cli import UserError
from launch.files.atomic import writing
from launch.files.places import place_name
from launch.ranks.joined import Ranks
from stage1_tokenizer.measuring.distances import KEPT, Gaussian, SetStatistics, SetSums
from stage1_tokenizer.measuring.features import FeatureNetwork
from stage1_tokenizer.measuring.picture_sets import PictureHash, every_picture, filled

_NAMES = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class MeasuredSet:
    """A set's statistics, and what it is (JSON values): set, sha256, pictures, kept, transform."""

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
    """Measure the pictures of an index, folder or `.npz`, each once over all ranks; `options` are every_picture's.

    `advance` is called with the number of pictures of each batch.
    """
    sums, digest = SetSums(network, ranks.device, kept), PictureHash(ranks.device)
    rows = options["batch_size"]
    batches = every_picture(source, transform, rank=ranks.rank, world_size=ranks.world_size, **options)
    with torch.no_grad():
        for batch in batches:
            digest.add(batch.pixels_BCHW)
            features = network(filled(batch.pixels_BCHW, rows).to(ranks.device, non_blocking=True))
            sums.add({kind: h_BD[: len(batch.keys)] for kind, h_BD in features.items()}, batch.keys)
            advance(len(batch.keys))
    statistics = sums.result(ranks.sum, ranks.gather)
    about = describe(source, digest.result(ranks.sum), statistics, transform)
    if not statistics.count:
        raise UserError(f"{source} holds no pictures: give another set")
    return MeasuredSet(statistics, about, tuple(load_index(source).classes) if is_index(source) else ())


def is_index(source: str) -> bool:
    """Whether a set is an index of shards, not a folder or an `.npz` of finished pictures."""
    return not Path(source).is_dir() and Path(source).suffix != ".npz"


def describe(source: str, sha256: str, statistics: SetStatistics, transform: TransformConfig) -> dict[str, Any]:
    """What a set is, for the result."""
    return {
        "set": Identity.of(load_index(source)).brief() if is_index(source) else {"name": place_name(source)},
        "hash": sha256,
        "pictures": statistics.count,
        "kept": len(statistics.kept_ND),
        "transform": transform.to_dict() if is_index(source) else "none: finished pictures",
    }


def reference_of(
    source: str, transform: TransformConfig, network: FeatureNetwork, ranks: Ranks, **options: Any
) -> MeasuredSet:
    """A reference set: its statistics if `source` holds them, else measured by `measure_set` with `options`.

    Raises UserError for statistics of another network.
    """
    arrays = _arrays(source) if Path(source).suffix == ".npz" else {}
    if "about" in arrays:
        return _ours(source, arrays, network)
    if "mu" in arrays and network.widths["pool"] == len(arrays["mu"]):
        pictures = None
        if "arr_0" in arrays:
            pictures = measure_set(source, transform, network, ranks, **options).statistics
        return _adm(source, arrays, network, pictures)
    if "mu" in arrays and "arr_0" not in arrays:
        raise UserError(
            f"reference={source} holds statistics of {len(arrays['mu'])} features, not of {network.about['network']}: "
            "set features to inception, or give the reference's pictures"
        )
    return measure_set(source, transform, network, ranks, **options)


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
    reference = about["reference"]
    if isinstance(reference["set"], str):  # a path, in files from before
        reference["set"] = {"name": place_name(reference["set"])}
    statistics = SetStatistics(int(arrays["count"]), _gaussians(arrays), kept_ND)
    return MeasuredSet(statistics, reference, tuple(about.get("classes", ())))


def _adm(source: str, arrays: dict[str, Any], network: FeatureNetwork, pictures: SetStatistics | None) -> MeasuredSet:
    """Statistics of ADM's suite; kid, precision and recall are measured on the pictures in the same file."""
    digest = hashlib.sha256()
    for name in sorted({"mu", "sigma", "mu_s", "sigma_s"} & set(arrays)):
        digest.update(arrays[name].tobytes())
    kept_ND = pictures.kept_ND if pictures else torch.zeros(0, network.widths["pool"])
    about = {
        "set": {"name": place_name(source)},
        "hash": f"statistics {digest.hexdigest()}",
        "pictures": None,
        "kept": len(kept_ND),
        "transform": "none: statistics from a file",
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        np.savez(file, about=np.array(about), **arrays)
