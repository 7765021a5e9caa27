"""Judge a prior: `python -m stage2_prior.evaluate --prior RUN --codes HELD_OUT_CODES/index.json --samples DIR …`.

bits_per_code     the prior's mean -log2 p(code) on held-out codes, each once
class_agreement   share of samples for which a classifier fitted to real training pictures gives the class asked for
real_accuracy     the same classifier's accuracy on real held-out pictures, without which agreement means little
fid, sfid, inception_score, kid, precision, recall; or frechet_vgg16, kid_vgg16, …: distances of the samples from
                  `reference` (stage1_tokenizer.measuring.distances)

On several ranks with `python -m launch.local --processes N stage2_prior.evaluate …`; every code and picture counts
once, whatever their number. `--compare A.json B.json` says whether two results may be compared, and what differs.

Shapes: B pictures, C channels, H W pixels, F features.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.shards.loading import load_index
from launch.command.cli import UserError, parse, run
from stage1_tokenizer.config.measuring import DistanceConfig

if TYPE_CHECKING:
    from launch.ranks.joined import Joined
    from stage1_tokenizer.measuring.evaluation import Evaluation
    from stage1_tokenizer.measuring.features import FeatureNetwork
    from stage2_prior.priors.base import Prior


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(DistanceConfig):
    """Measure a prior and its samples; what isn't named isn't measured."""

    prior: str | None = None
    """A finished run's folder or a released prior; null where only pictures are measured, whoever made them. Without it
    the pictures of an index are cut to squares and resized to the samples' size."""
    out: str
    """JSON file for the results."""
    tokenizer: str | None = None
    """The released tokenizer, to be sure that the prior is over its codes; null: not checked."""
    codes: str | None = None
    """Index of held-out codes, for bits_per_code; needs `prior`."""
    samples: str | None = None
    """The samples: a folder that stage2_prior.sample wrote, or, for distances alone, any folder of pictures or an .npz
    (arr_0). Needs `data` for class_agreement or `reference` for distances, or both."""
    data: str | None = None
    """Index of the real training pictures that the classifier is fitted to; needs `prior`."""
    held_out: str | None = None
    """Index of real held-out pictures, for the classifier's own accuracy."""
    limit: int = 10_000
    """Pictures of `data` (and of `held_out`) that are used at most, evenly spaced."""
    batch_size: int = 64
    """Codes or pictures read at once, by each rank."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codes is None and self.samples is None:
            raise ValueError("nothing to measure: name codes; samples and data; or samples and reference")
        if (self.samples is None) != (self.data is None and self.reference is None):
            raise ValueError("samples go with data (a classifier's, which judges them), with reference, or with both")
        if self.prior is None and (self.codes or self.data or self.tokenizer):
            raise ValueError("codes, data and tokenizer need prior: name it, or leave them away")
        if self.save_reference and not self.reference:
            raise ValueError("save_reference needs reference: name the set whose statistics are to be saved")
        for name in ("limit", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: set it to 1 or more")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure what is configured, write it to config.out, and return it (the same on every rank)."""
    from launch.ranks.joined import Joined, joined
    from stage1_tokenizer.measuring.evaluation import Evaluation
    from stage1_tokenizer.measuring.features import load_network
    from stage2_prior.priors.base import weights_hash
    from stage2_prior.priors.build import load_prior

    if config.save_reference and Path(config.save_reference).exists():
        raise UserError(f"save_reference={config.save_reference} exists: choose another file, or delete it")
    network = None
    if config.reference:
        network = load_network(
            config.features, inception_weights=config.inception_weights, vgg_weights=config.vgg_weights
        )
    prior = load_prior(config.prior) if config.prior else None
    with joined() as accelerator:
        ranks = Joined(accelerator)
        fingerprint = prior.source.tokenizer if prior else None
        evaluation = Evaluation(ranks, fingerprint=fingerprint, prior=config.prior)
        if prior is not None:
            weights = weights_hash(prior)
            evaluation.add({"tokenizer": fingerprint, "prior_weights": weights}, prior_weights=weights)
            add_prior(config, prior, ranks, evaluation)
        if network is not None:
            add_distances(config, prior, network.to(ranks.device), evaluation)
        if ranks.rank == 0:
            evaluation.write(Path(config.out))
    return evaluation.result()


def add_prior(config: EvaluateConfig, prior: Prior, ranks: Joined, evaluation: Evaluation) -> None:
    """Add bits_per_code and the classifier's figures."""
    from launch.ranks.vote import on_main
    from stage2_prior.codes.source import CodeSource
    from stage2_prior.measuring.classifier import agreement
    from stage2_prior.measuring.held_out import held_out_figures

    if config.tokenizer:
        from stage1_tokenizer import Tokenizer

        fingerprint = Tokenizer.from_pretrained(config.tokenizer).fingerprint
        prior.source.must_be_of(fingerprint, "tokenizer", config.tokenizer)
    if config.codes:
        index = load_index(config.codes)
        prior.source.must_equal(CodeSource.of_index(index, config.codes, "codes"), "codes", config.codes)
        prior.to(ranks.device)
        figures = held_out_figures(prior, config.codes, ranks, batch_size=config.batch_size)
        codes = {"set": config.codes, "name": index.name, "count": len(index), **prior.source.to_dict()}
        evaluation.add({**figures, "codes": len(index)}, codes=codes)
    if config.data:
        assert config.samples is not None
        sets, settings = (config.samples, config.data, config.held_out), (config.limit, config.batch_size)
        classified = on_main(ranks.accelerator, partial(agreement, *sets, prior.source, *settings))
        figures = ranks.gather(classified)[0]
        classifier = {"data": config.data, "limit": config.limit, "what": figures["classifier"]}
        evaluation.add(figures, classifier=classifier)


def add_distances(config: EvaluateConfig, prior: Prior | None, network: FeatureNetwork, evaluation: Evaluation) -> None:
    """Add the samples' distances from the reference."""
    from data.media import read_transform
    from data.pictures.config import TransformConfig
    from stage1_tokenizer.measuring.evaluation import progress_of
    from stage1_tokenizer.measuring.picture_sets import side_of
    from stage1_tokenizer.measuring.references import measure_set, reference_of, save_reference

    assert config.samples is not None and config.reference is not None
    side, ranks = side_of(config.samples), evaluation.ranks
    if side is None:
        raise UserError(f"samples={config.samples} is neither a folder of pictures nor an .npz: name one of the two")
    transform = read_transform(prior.source.transform) if prior else TransformConfig(size=side)
    if side != transform.size:
        raise UserError(
            f"samples={config.samples} are of {side} pixels a side, the prior's pictures of {transform.size}: name "
            "samples of this prior, or leave prior away"
        )
    with progress_of("evaluate samples", ranks) as advance:
        settings: dict[str, Any] = {"batch_size": config.batch_size, "kept": config.kept, "advance": advance}
        reference = reference_of(config.reference, transform, network, ranks, **settings)
        samples = measure_set(config.samples, transform, network, ranks, **settings)
    described = Path(config.samples) / "samples.json"
    evaluation.add(
        {"samples": samples.statistics.count},
        measured_set=samples.about,
        samples=samples.statistics.count,
        sampling=json.loads(described.read_text()).get("settings") if described.exists() else None,
    )
    if config.save_reference and ranks.rank == 0:
        save_reference(Path(config.save_reference), reference, network)
    evaluation.add_distances(network, samples.statistics, reference, kept=config.kept)


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--compare"]:
        from stage1_tokenizer.measuring.results import compare

        return compare(sys.argv[2:])
    evaluate(parse(EvaluateConfig, prog="python -m stage2_prior.evaluate"))
    return 0


if __name__ == "__main__":
    run(main)
