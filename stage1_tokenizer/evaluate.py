"""Measure a tokenizer: `python -m stage1_tokenizer.evaluate --tokenizer DIR --data INDEX --out FILE.json`.

On several ranks with `python -m launch.local --processes N stage1_tokenizer.evaluate …`; every picture counts exactly
once, whatever their number. `--compare A.json B.json` says whether two results may be compared, and what differs.
Legend: B batch, C channels, H W pixels, h w latent grid.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.shards.loading import load_index
from launch.command.cli import UserError, parse, run
from stage1_tokenizer.config.measuring import DistanceConfig
from stage1_tokenizer.measuring.scores import measure, transform_of

if TYPE_CHECKING:
    from data.pictures.batches import PictureBatch
    from data.pictures.config import TransformConfig
    from launch.ranks.joined import Ranks
    from stage1_tokenizer.losses.lpips import LPIPS
    from stage1_tokenizer.measuring.features import FeatureNetwork
    from stage1_tokenizer.measuring.references import MeasuredSet
    from stage1_tokenizer.tokenizer.model import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(DistanceConfig):
    """Measure a tokenizer's reconstructions and its use of the codebook on a set of pictures."""

    tokenizer: str
    """Folder of a released tokenizer, or of a run (its newest checkpoint's averaged weights are measured)."""
    data: str
    """Path or URL of the index of the pictures."""
    out: str
    """JSON file for the figures."""
    pictures: str | None = None
    """PNG file for originals beside their reconstructions."""
    picture_count: int = 32
    """Pictures in that file, evenly spaced over the set."""
    samples: int | None = None
    """Pictures measured, evenly spaced over the set; null: all."""
    batch_size: int = 64
    """Pictures in a batch of each rank."""
    threads: int = 2
    """Reading and decoding threads of each rank."""
    lpips: bool = True
    """Measure LPIPS (it takes most of the time)."""
    lpips_net: str = "vgg"
    """LPIPS's network: vgg or alex."""
    lpips_weights: str | None = None
    """File with that network's weights; null looks for an installed one."""
    overwrite: bool = False
    """Write over `out`, `pictures` and `save_reference` where they exist."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("picture_count", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: set it to 1 or more")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples={self.samples} is too small: set it to 1 or more, or to null for all")
        if self.lpips_net not in ("vgg", "alex"):
            raise ValueError(f"lpips_net={self.lpips_net} is not known: use vgg or alex")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure, write `out`, `pictures` and `save_reference`, and return the result (the same on every rank).

    The distances are those of the reconstructions from `reference`, or else from the originals.
    """
    for path in (config.out, config.pictures, config.save_reference):
        if path and Path(path).exists() and not config.overwrite:
            raise UserError(f"{path} exists: choose another file, delete it, or set --overwrite true")

    from launch.ranks.joined import Joined, joined
    from stage1_tokenizer.losses.lpips import load_lpips
    from stage1_tokenizer.measuring.features import load_network
    from stage1_tokenizer.tokenizer.opening import open_tokenizer

    tokenizer = open_tokenizer(config.tokenizer)
    transform = transform_of(tokenizer, config.tokenizer)
    lpips = load_lpips(config.lpips_net, config.lpips_weights) if config.lpips else None
    network = load_network(
        config.features, inception_weights=config.inception_weights, vgg_weights=config.vgg_weights, lpips=lpips
    )
    with joined() as accelerator:
        ranks = Joined(accelerator)
        for module in (tokenizer, lpips, network):
            if module is not None:
                module.to(ranks.device)
        result, reference = _measured(config, tokenizer, transform, lpips, network, ranks)
        if accelerator.is_main_process:
            _write(config, tokenizer, result, reference, network)
    return result


def _measured(
    config: EvaluateConfig,
    tokenizer: Tokenizer,
    transform: TransformConfig,
    lpips: LPIPS | None,
    network: FeatureNetwork | None,
    ranks: Ranks,
) -> tuple[dict[str, Any], MeasuredSet | None]:
    """The result, and the reference of its distances."""
    from data.reading.stream import every_sample
    from stage1_tokenizer.measuring.gathering import Streams
    from stage1_tokenizer.measuring.references import reference_of

    options: dict[str, Any] = {"batch_size": config.batch_size, "threads": config.threads, "limit": config.samples}
    reference = None
    if network is not None and config.reference:
        given = {**options, "limit": None, "kept": config.kept}
        reference = reference_of(config.reference, transform, network, ranks, **given)
    streams = Streams(network, ranks.device, kept=config.kept, originals=reference is None)
    batches = every_sample(config.data, transform, rank=ranks.rank, world_size=ranks.world_size, **options)
    shown = _shown(batches, ranks.rank == 0)
    rows = min(config.batch_size, config.samples or config.batch_size, len(load_index(config.data)))
    figures = measure(tokenizer, shown, lpips, device=ranks.device, total=ranks.sum, streams=streams, rows=rows)
    data_hash = streams.hash.result(ranks.sum)
    measured = circumstances(config, tokenizer, transform, ranks) | {"data_hash": data_hash}
    if network is not None:
        reference = reference or streams.originals_set(config.data, data_hash, transform, ranks)
        figures |= streams.figures(reference.statistics, ranks)
        measured |= {"features": streams.about(), "reference": reference.about}
    measured["samples"] = figures["samples"]
    return {**figures, "measured": measured}, reference


def _write(
    config: EvaluateConfig,
    tokenizer: Tokenizer,
    result: dict[str, Any],
    reference: MeasuredSet | None,
    network: FeatureNetwork | None,
) -> None:
    from launch.files.atomic import write_atomically
    from stage1_tokenizer.measuring.references import save_reference
    from stage1_tokenizer.measuring.side_by_side import save_pictures

    if config.pictures:
        save_pictures(Path(config.pictures), tokenizer, config.data, config.picture_count)
    if config.save_reference and reference is not None and network is not None:
        save_reference(Path(config.save_reference), reference, network)
    Path(config.out).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(config.out), json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "measured"}))


def _shown(batches: Iterable[PictureBatch], shown: bool) -> Iterable[PictureBatch]:
    from launch.command.progress import Progress

    with Progress("evaluate tokenizer", None, unit="pictures", enabled=shown) as bar:
        for batch in batches:
            yield batch
            bar.advance(len(batch.keys))


def circumstances(
    config: EvaluateConfig, tokenizer: Tokenizer, transform: TransformConfig, ranks: Ranks
) -> dict[str, Any]:
    """What the figures depend on, for the JSON."""
    from stage1_tokenizer.measuring import results

    return {
        "data": config.data,
        "pictures": "clamped and rounded to 8 bits, data range 255; every picture once, mean over pictures",
        "ssim": "gaussian window of 11, sigma 1.5, inside the picture only, mean over channels",
        "lpips": f"{config.lpips_net}, version 0.1" if config.lpips else "not measured",
        "transform": transform.to_dict(),
        "fingerprint": tokenizer.fingerprint,
        "prior": None,
        **results.circumstances(ranks.world_size),
    }


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--compare"]:
        from stage1_tokenizer.measuring.results import compare

        return compare(sys.argv[2:])
    evaluate(parse(EvaluateConfig, prog="python -m stage1_tokenizer.evaluate"))
    return 0


if __name__ == "__main__":
    run(main)
