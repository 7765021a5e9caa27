"""An evaluation: bits per code, class agreement and distances, written as one result."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from data.media import read_transform
from data.pictures.config import TransformConfig
from data.shards.identity import Identity
from data.shards.loading import load_index
from data.videos.config import VideoConfig
from launch.command.checks import named
from launch.command.cli import UserError
from launch.command.progress import Progress
from launch.files.outputs import try_files
from launch.files.places import place_name, without_places
from launch.ranks.joined import Ranks, joined
from launch.ranks.vote import on_main
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.layers.precision import at_precision
from stage1_tokenizer.measuring.distances import NEEDED
from stage1_tokenizer.measuring.evaluation import Evaluation
from stage1_tokenizer.measuring.features import FeatureNetwork, load_network
from stage1_tokenizer.measuring.picture_files import Size, shown
from stage1_tokenizer.measuring.picture_sets import count_of, size_of
from stage1_tokenizer.measuring.references import measure_set, reference_of, save_reference
from stage1_tokenizer.measuring.video_features import load_video_network
from stage2_prior.codes.matching import matched
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.measuring.attributes import attribute_agreement
from stage2_prior.measuring.classifier import agreement
from stage2_prior.measuring.composed import Composition, composed_agreement
from stage2_prior.measuring.feature_classifier import by_vgg16
from stage2_prior.measuring.held_out import held_out_figures
from stage2_prior.measuring.unified_evaluation import add_both_ways, over_measured
from stage2_prior.measuring.video_distances import add_video_distances
from stage2_prior.priors.base import Prior, weights_hash
from stage2_prior.priors.build import load_prior
from stage2_prior.priors.fused import install
from stage2_prior.priors.unified import UnifiedPrior


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure what is configured, write it to config.out, and return it (the same on every rank)."""
    inputs = (config.codes, config.data, config.held_out, config.samples, config.predictions, config.reference)
    try_files({"out": config.out, "save_reference": config.save_reference}, inputs=inputs)
    if config.save_reference and Path(config.save_reference).exists():
        raise UserError(f"save_reference={config.save_reference} exists: choose another file, or delete it")
    loaded = load_prior(config.prior) if config.prior else None
    unified = loaded if isinstance(loaded, UnifiedPrior) else None
    prior = over_measured(config, unified) if unified else loaded
    network = distance_network(config, prior) if config.reference else None
    with joined() as accelerator, at_precision(config.precision):
        ranks = Ranks(accelerator)
        fingerprint = prior.source.tokenizer if prior else None
        name = config.prior and place_name(config.prior)
        evaluation = Evaluation(ranks, fingerprint=fingerprint, prior=name, precision=config.precision)
        if loaded is not None:
            weights = weights_hash(loaded)
            evaluation.add({"tokenizer": fingerprint, "prior_weights": weights}, prior_weights=weights)
        if prior is not None:
            add_prior(config, prior, ranks, evaluation)
        if unified is not None:
            add_both_ways(config, unified, cast(Any, prior), ranks, evaluation)
        if network is not None:
            add_distances(config, prior, network.to(ranks.device), evaluation)
        if ranks.rank == 0:
            evaluation.write(Path(config.out))
    return evaluation.result()


def distance_network(config: EvaluateConfig, prior: Prior | None) -> FeatureNetwork | None:
    """The network of the distances, of the prior's kind of samples."""
    if prior is not None and prior.source.kind == "videos":
        return load_video_network(config.features, None, config.vgg_weights, config.i3d_weights)
    return load_network(config.features, inception_weights=config.inception_weights, vgg_weights=config.vgg_weights)


def add_prior(config: EvaluateConfig, prior: Prior, ranks: Ranks, evaluation: Evaluation) -> None:
    """Add bits_per_code and the classifier's figures."""
    if config.tokenizer:
        fingerprint = Tokenizer.from_pretrained(config.tokenizer).code_fingerprint
        prior.source.must_be_of(fingerprint, "tokenizer", config.tokenizer)
    if config.codes:
        index, say = load_index(config.codes), print if ranks.rank == 0 else None
        identity, condition = Identity.of(index), prior.condition.name
        index = matched(index, prior.source, condition, prior.vocabulary.classes, "codes", say)
        install(prior.to(ranks.device), ranks.device)
        how: dict[str, Any] = {"batch_size": config.batch_size, "precision": config.precision}
        figures = held_out_figures(prior, index, ranks, **how)
        codes = {"set": identity.brief(), "digest": identity.digest, "count": len(index), **prior.source.to_dict()}
        evaluation.add({**figures, "codes": len(index)}, codes=codes)
    if config.data:
        figures = ranks.gather(on_main(ranks.accelerator, partial(classified, config, prior)))[0]
        classifier = {**figures.pop("fitted_to"), "limit": config.limit, "what": figures["classifier"]}
        evaluation.add(figures, classifier=classifier)


def classified(config: EvaluateConfig, prior: Prior) -> dict[str, Any]:
    """The classifiers' figures: of what captions say if the set's can be checked, else of classes."""
    sets, settings = (str(config.data), config.held_out), (config.limit, config.batch_size)
    by_features = by_vgg16(config.vgg_weights) if config.classifier == "vgg16" else None
    own = "{} have a classifier of their own: leave classifier=vgg16 out"
    if by_features and prior.source.kind != "pictures":
        raise UserError(own.format(prior.source.kind))
    if found := attribute_agreement(config.samples, config.predictions, *sets, prior, *settings):
        return found
    data, transform = load_index(str(config.data)), read_transform(prior.source.transform)
    if config.samples and isinstance(transform, TransformConfig) and Composition.of(data):
        if by_features:
            raise UserError(own.format("composed pictures"))
        return composed_agreement(config.samples, data, config.held_out, prior, transform, *settings)
    if config.samples is None:
        raise UserError(f"predictions={config.predictions} can't be checked: data={config.data} has no meta.attributes")
    return agreement(config.samples, *sets, prior, *settings, by_features)


def checked_size(samples: str) -> Size:
    """Height and width of the samples; UserError for another kind of set, and for fewer than distances need."""
    size = size_of(samples)
    if size is None:
        raise UserError(f"samples={samples} is neither a folder of pictures nor an .npz: give one of the two")
    if (count := count_of(samples)) < 2:
        raise UserError(f"samples={samples} holds {count} picture, and a distance is between sets: {NEEDED}")
    return size


def add_distances(config: EvaluateConfig, prior: Prior | None, network: FeatureNetwork, evaluation: Evaluation) -> None:
    """Add the samples' distances from the reference."""
    assert config.samples is not None and config.reference is not None
    own = read_transform(prior.source.transform) if prior else None
    if isinstance(own, VideoConfig):
        return add_video_distances(config, own, network, evaluation)
    if own is not None and not isinstance(own, TransformConfig):
        raise UserError(f"reference={config.reference} is for pictures and videos, not for {own.kind}: leave it out")
    size, ranks = checked_size(config.samples), evaluation.ranks
    transform = own or TransformConfig(size=size[0])
    if prior and size != (transform.size,) * 2:
        raise UserError(
            f"samples={config.samples} are of {shown(size)} pixels, the prior's pictures of "
            f"{shown((transform.size,) * 2)}: give samples of this prior, or leave out prior"
        )
    if config.resize and size[0] != size[1]:
        raise UserError(f"resize=true makes squares, and samples={config.samples} are of {shown(size)}: leave it out")
    with Progress("evaluate samples", None, unit="pictures", enabled=ranks.rank == 0) as bar:
        settings: dict[str, Any] = {"batch_size": config.batch_size, "kept": config.kept, "advance": bar.advance}
        settings["allow_left_out"] = config.allow_left_out
        how: dict[str, Any] = {"size": size, "resize": config.resize}
        reference = reference_of(config.reference, transform, network, ranks, **how, **settings)
        samples = measure_set(config.samples, transform, network, ranks, **settings)
    if prior and ranks.rank == 0 and (note := other_classes(prior.vocabulary.classes, reference.classes)):
        print(f"note: reference={config.reference} {note}", flush=True)
    described = Path(config.samples) / "samples.json"
    evaluation.add(
        {"samples": samples.statistics.count},
        measured_set=samples.about,
        samples=samples.statistics.count,
        sampling=without_places(json.loads(described.read_text()).get("settings")) if described.exists() else None,
    )
    if config.save_reference and ranks.rank == 0:
        save_reference(Path(config.save_reference), reference, network)
    evaluation.add_distances(network, samples.statistics, reference, kept=config.kept)


def other_classes(prior: Sequence[str], reference: Sequence[str]) -> str:
    """In words, how the classes of a reference differ from the prior's; empty if they don't, or either has none."""
    more, fewer = ([name for name in a if name not in b] for a, b in ((reference, prior), (prior, reference)))
    if not (prior and reference and (more or fewer)):
        return ""
    parts = [f"has {named(more)}, which the prior has not"] * bool(more)
    return " and ".join([*parts, *[f"lacks {named(fewer)}"] * bool(fewer)]) + ": distances tell of this too"
