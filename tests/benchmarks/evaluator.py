"""Our evaluator beside torch-fidelity's own loop, on the same pictures and networks.

    python tests/benchmarks/evaluator.py --tar photographs.tar --count 200

The tar's pictures are cut to 256×256 PNGs, half of them measured, half the reference. Once each: torch-fidelity's
`calculate_metrics` (FID, KID, Inception score, precision and recall) and ours, which adds sFID, on Inception's true
architecture with random weights; then ours on VGG16. Both read the folders in one process. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from PIL import Image, ImageOps

from data.pictures.config import TransformConfig
from launch.run import provenance as facts
from stage1_tokenizer.measuring.distances import figures
from stage1_tokenizer.measuring.features import FeatureNetwork, load_network
from stage1_tokenizer.measuring.references import measure_set

SIZE = 256


class Alone:
    rank, world_size, device = 0, 1, torch.device("cpu")

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def gather(self, value: Any) -> list[Any]:
        return [value]


def prepare(tar: Path, count: int, folder: Path) -> tuple[str, str]:
    """Two folders of PNGs."""
    with tarfile.open(tar) as archive:
        members = [member for member in archive if member.isfile()][:count]
        for number, member in enumerate(members):
            image = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")  # type: ignore[union-attr]
            path = folder / ("measured", "reference")[number % 2] / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            ImageOps.fit(image, (SIZE, SIZE)).save(path)
    return str(folder / "measured"), str(folder / "reference")


def random_inception(path: Path) -> None:
    """A file as FID's, of random weights: they can't be had without a network, and cost the same."""
    from torch_fidelity import feature_extractor_inceptionv3 as port

    class Random(port.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:  # type: ignore[override]
            """Keep what the layers were made with."""

    port.load_state_dict_from_url = lambda *_, **__: None
    torch.manual_seed(0)
    network = Random("inception-v3-compat", ["2048"])
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)


def used() -> float:
    """Processor seconds of this process and those it started."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(work: Callable[[], dict[str, float]], count: int) -> dict[str, Any]:
    wall, cpu = time.monotonic(), used()
    found = work()
    seconds, cpu = time.monotonic() - wall, used() - cpu
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "pictures_per_cpu_second": round(count / cpu, 3),
        "figures": {name: round(value, 6) for name, value in found.items()},
    }


def ours(network: FeatureNetwork, folders: tuple[str, str], batch: int) -> dict[str, float]:
    """Both sets and all figures."""
    transform = TransformConfig(size=SIZE)
    began = used()
    sets = [measure_set(source, transform, network, Alone(), batch_size=batch).statistics for source in folders]
    done = used()
    found = figures(network, *sets)
    return {**found, "cpu_seconds_of_features": done - began, "cpu_seconds_of_figures": used() - done}


def theirs(weights: Path, folders: tuple[str, str], batch: int, subset: int) -> dict[str, float]:
    """torch-fidelity's own loop; precision and recall on the same network as the others."""
    import torch_fidelity

    return torch_fidelity.calculate_metrics(
        input1=folders[0],
        input2=folders[1],
        cuda=False,
        batch_size=batch,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=subset,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--skip_vgg", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folders = prepare(args.tar, args.count, Path(place))
        weights = Path(place) / "inception.pth"
        random_inception(weights)
        inception = load_network("inception", inception_weights=str(weights))
        assert inception is not None
        results = {
            "torch_fidelity": timed(lambda: theirs(weights, folders, args.batch, args.count // 2), args.count),
            "ours_inception": timed(lambda: ours(inception, folders, args.batch), args.count),
        }
        if not args.skip_vgg:
            vgg16 = load_network("vgg16")
            assert vgg16 is not None
            results["ours_vgg16"] = timed(lambda: ours(vgg16, folders, args.batch), args.count)
    known = facts.facts()
    about = {key: known[key] for key in ("commit", "hardware", "date", "versions")}
    print(json.dumps({"pictures": args.count, "size": SIZE, "threads": torch.get_num_threads(), **results, **about}))


if __name__ == "__main__":
    main()
