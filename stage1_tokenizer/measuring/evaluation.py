"""An evaluation's result: figures, and the conditions they were measured under. Both stages write it by this class.

`evaluate_tokenizer` is stage one's evaluation. Legend: B batch, C channels, H W pixels.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data.pictures.batches import PictureBatch
from data.pictures.config import TransformConfig
from data.shards.tally import Tally
from data.sounds.config import SoundConfig
from data.videos.config import VideoConfig
from launch.command.cli import UserError
from launch.command.progress import Progress
from launch.files.atomic import write_file
from launch.files.outputs import try_files, try_folder
from launch.ranks.joined import Ranks, joined
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.layers.precision import TYPES, Precision, at_precision
from stage1_tokenizer.losses.lpips import LPIPS, load_lpips
from stage1_tokenizer.measuring.distances import METHOD, NEEDED, SetStatistics, figures
from stage1_tokenizer.measuring.features import FeatureNetwork, load_network
from stage1_tokenizer.measuring.perturbed import PerturbedSums
from stage1_tokenizer.measuring.picture_sets import brief_of, count_of, every_picture
from stage1_tokenizer.measuring.probing import probed
from stage1_tokenizer.measuring.references import MeasuredSet, reference_of, save_reference, settle
from stage1_tokenizer.measuring.results import conditions
from stage1_tokenizer.measuring.scores import EvaluationSums, measure
from stage1_tokenizer.measuring.side_by_side import save_pictures
from stage1_tokenizer.measuring.sound_evaluation import check_sounds, measure_set_of_sounds
from stage1_tokenizer.measuring.video_evaluation import check_videos, measure_set_of_videos
from stage1_tokenizer.measuring.video_features import load_video_network
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import open_tokenizer

FOLDERS = ("sounds", "videos")
"""Settings that name a folder for samples of that kind and their reconstructions."""


class Evaluation:
    """Figures, with the conditions under which they may be compared with another result's (`measured` in the file)."""

    def __init__(self, ranks: Ranks, *, fingerprint: str | None, prior: str | None, precision: Precision = "fp32"):
        self.ranks = ranks
        self.figures: dict[str, Any] = {}
        subject = {"fingerprint": fingerprint, "prior": prior, "precision": precision}
        self.conditions = {**subject, **conditions(ranks.world_size)}

    def add(self, figures: Mapping[str, Any], **conditions: Any) -> None:
        """Add figures and what they depend on."""
        self.figures |= figures
        self.conditions |= conditions

    def add_distances(
        self, network: FeatureNetwork, samples: SetStatistics, reference: MeasuredSet, *, kept: int
    ) -> None:
        """Add a set's distances from a reference, computed on rank 0; every rank must call it.

        A line names those for which a set has too few pictures.
        """
        values = figures(network, samples, reference.statistics) if self.ranks.rank == 0 else None
        values = self.ranks.gather(values)[0]
        features = {**network.about, **METHOD, "kept": kept}
        self.add(values, features=features, reference=reference.about)
        missing = [
            name for kind, name in network.names.items() if name not in values and kind not in ("spatial", "score")
        ]
        if missing and self.ranks.rank == 0:
            counts = f"the set has {samples.count} and the reference {reference.statistics.count}"
            print(f"note: not measured: {', '.join(missing)}; {NEEDED}, {counts}", file=sys.stderr, flush=True)

    def result(self) -> dict[str, Any]:
        """The JSON file's content."""
        return {**self.figures, "measured": self.conditions}

    def write(self, out: Path) -> None:
        """Write the result and print its figures; for rank 0."""
        write_file(out, json.dumps(self.result(), indent=2) + "\n")
        print(json.dumps({name: value for name, value in self.figures.items() if isinstance(value, (int, float))}))


def evaluate_tokenizer(config: EvaluateConfig) -> dict[str, Any]:
    """Measure, write `out`, `pictures` and `save_reference`, and return the result (the same on every rank).

    The distances are those of the reconstructions from `reference`, or from the originals if there is none.
    """
    outputs = {key: getattr(config, key) for key in ("out", "pictures", "save_reference")}
    try_files(outputs, inputs=(config.data, config.reference))
    folders = {key: getattr(config, key) for key in FOLDERS}
    for key, path in folders.items():
        if path:
            try_folder(key, path)
    for path in (*outputs.values(), *folders.values()):
        if path and Path(path).exists() and not config.overwrite:
            raise UserError(f"{path} exists: choose another file, delete it, or set --overwrite true")
    tokenizer = open_tokenizer(config.tokenizer)
    transform = tokenizer.transform
    if transform is None:
        raise UserError(f"{config.tokenizer} has no preprocessor_config.json: how pictures are prepared is unknown")
    if config.perturb_share and not tokenizer.codebook_size:
        raise UserError(f"perturb_share={config.perturb_share:g} needs codes, which {config.tokenizer} hasn't: set 0")
    if config.probe is not None and transform.kind != "pictures":
        raise UserError(f"probe={config.probe} is for tokenizers of pictures, not of {transform.kind}: leave it out")
    check_kind(config, transform.kind)
    lpips, network = _networks(config, transform.kind)
    fingerprint = tokenizer.fingerprint
    with joined() as accelerator, at_precision(config.precision):
        ranks = Ranks(accelerator)
        tokenizer.to(TYPES[config.precision])
        for module in (tokenizer, lpips, network):
            if module is not None:
                module.to(ranks.device)
                install(module, ranks.device)
        evaluation = Evaluation(ranks, fingerprint=fingerprint, prior=None, precision=config.precision)
        reference = None
        if isinstance(transform, SoundConfig):
            measure_set_of_sounds(config, tokenizer, transform, ranks, evaluation.add)
        elif isinstance(transform, VideoConfig):
            measure_set_of_videos(config, tokenizer, transform, lpips, network, ranks, evaluation.add)
        elif isinstance(transform, TransformConfig):
            reference = _measure(config, tokenizer, transform, lpips, network, evaluation)
        if ranks.rank == 0:
            if config.pictures and isinstance(transform, TransformConfig):
                save_pictures(Path(config.pictures), tokenizer, config.data, config.picture_count)
            if config.save_reference and reference is not None and network is not None:
                save_reference(Path(config.save_reference), reference, network)
            evaluation.write(Path(config.out))
    return evaluation.result()


def check_kind(config: EvaluateConfig, kind: str) -> None:
    """Raise UserError for settings that are for other samples than those of the tokenizer."""
    for key in FOLDERS:
        if getattr(config, key) and kind != key:
            raise UserError(
                f"{key}={getattr(config, key)} is not supported with {config.tokenizer}, a tokenizer of {kind}"
            )
    if kind == "texts":
        raise UserError(f"tokenizer={config.tokenizer} is of texts, which stage1_tokenizer.train alone measures")
    if kind == "sounds":
        check_sounds(config)
    elif kind == "videos":
        check_videos(config)


def _networks(config: EvaluateConfig, kind: str) -> tuple[LPIPS | None, FeatureNetwork | None]:
    """LPIPS, and the network of the distances, as far as samples of a kind have them."""
    if kind == "sounds":
        return None, None
    lpips = load_lpips(config.lpips_net, config.lpips_weights) if config.lpips else None
    if kind == "videos":
        return lpips, load_video_network(config.features, lpips, config.vgg_weights, config.i3d_weights)
    weights = {"inception_weights": config.inception_weights, "vgg_weights": config.vgg_weights}
    return lpips, load_network(config.features, lpips=lpips, **weights)


def _measure(
    config: EvaluateConfig,
    tokenizer: Tokenizer,
    transform: TransformConfig,
    lpips: LPIPS | None,
    network: FeatureNetwork | None,
    evaluation: Evaluation,
) -> MeasuredSet | None:
    """Add all figures to the evaluation; the reference of its distances."""
    ranks = evaluation.ranks
    options: dict[str, Any] = {"batch_size": config.batch_size, "threads": config.threads, "limit": config.samples}
    reference = None
    if network is not None and config.reference:
        sizes = {"size": (transform.size,) * 2, "resize": config.resize, "allow_left_out": config.allow_left_out}
        settings = {**options, "limit": None, "kept": config.kept, **sizes}
        reference = reference_of(config.reference, transform, network, ranks, **settings)
    sums = EvaluationSums(network, ranks.device, kept=config.kept, originals=reference is None)
    perturbed = None
    if network is not None and config.perturb_share:
        perturbed = PerturbedSums(tokenizer, network, ranks.device, config.perturb_share, config.perturb_nearest)
    rows, tally = min(config.batch_size, config.samples or config.batch_size, count_of(config.data)), Tally()
    options |= {"rank": ranks.rank, "world_size": ranks.world_size, "tally": tally}
    with Progress("evaluate tokenizer", None, unit="pictures", enabled=ranks.rank == 0) as bar:
        batches = every_picture(config.data, transform, prepare=True, allow_left_out=config.allow_left_out, **options)
        counted = _counted(batches, bar.advance)
        how: dict[str, Any] = {"sums": sums, "perturbed": perturbed, "rows": rows}
        scores = measure(tokenizer, counted, lpips, device=ranks.device, total=ranks.sum, **how)
    if lost := settle(tally, ranks, config.allow_left_out):
        evaluation.add({}, left_out=lost)
    if not scores["samples"]:
        raise UserError(f"data={config.data} holds no picture that can be read: give another set")
    data_hash = sums.hash.result(ranks.sum)
    evaluation.add(
        scores,
        data=brief_of(config.data),
        data_hash=data_hash,
        samples=scores["samples"],
        transform=transform.to_dict(),
        pictures="clamped and rounded to 8 bits, data range 255; every picture once, mean over pictures",
        ssim="gaussian window of 11, sigma 1.5, inside the picture only, mean over channels",
        lpips=f"{config.lpips_net}, version 0.1" if config.lpips else "not measured",
    )
    if network is not None:
        reference = reference or sums.originals_set(config.data, data_hash, transform, ranks)
        evaluation.add_distances(network, sums.reconstructions(ranks), reference, kept=config.kept)
        if perturbed is not None:
            figures = perturbed.result(reference.statistics, ranks)
            evaluation.add(figures, metrics=perturbed.about if figures else {})
    if config.probe is not None:
        found, about = probed(config, tokenizer, ranks)
        evaluation.add(found, probe=about)
    return reference


def _counted(batches: Iterable[PictureBatch], advance: Callable[[int], None]) -> Iterator[PictureBatch]:
    for batch in batches:
        yield batch
        advance(len(batch.keys))
