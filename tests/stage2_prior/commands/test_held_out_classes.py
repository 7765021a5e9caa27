"""Held-out codes, mixtures and samples mean the classes that the prior was trained on, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.media import read_transform
from data.reading.stream import every_code
from data.shards.loading import load_index
from data.shards.writer import ShardWriter
from launch.command.cli import UserError
from launch.run.metrics import read
from stage2_prior.codes.encoding import npy
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.sampling import InpaintConfig
from stage2_prior.measuring.evaluation import evaluate
from stage2_prior.measuring.held_out import held_out_figures
from stage2_prior.priors.build import load_prior
from stage2_prior.sampling.holes import read as read_given
from stage2_prior.train import checked_codes, train
from tests.stage2_prior.commands.test_train import settings
from tests.stage2_prior.conftest import Coded, Trained
from tests.stage2_prior.tiny import CLASSES, write_tokenizer


def relabelled(source: str, folder: Path, own: Sequence[str], keep: Sequence[str] | None = None) -> str:
    """The codes of some classes of an index as a set with the class list `own`, labelled by its numbers."""
    index = load_index(source)
    kept = own if keep is None else keep
    samples = []
    for batch in every_code(index, batch_size=64):
        for key, label, codes in zip(batch.keys, batch.label_B.tolist(), batch.idx_Bhw.numpy(), strict=True):
            if (name := CLASSES[label]) in kept:
                about = {"cls": str(list(own).index(name)).encode()} if name in own else {}
                samples.append((key, {"codes.npy": npy(codes.astype(np.uint16)), **about}))
    writer = ShardWriter(folder)
    writer.begin({}, ["index.json"])
    record = writer.write("codes-000000.tar", samples)
    index = writer.index([record], name="few", kind="codes", classes=list(own), meta=index.meta)
    writer.finish({"index.json": index})
    return str(folder / "index.json")


@pytest.mark.parametrize("own", [("star",), ("star", "circle"), ("square", "star", "circle")])
def test_classes_are_matched_by_name_and_the_figure_is_the_same(
    coded: Coded, trained: Trained, tmp_path: Path, own: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    prior = load_prior(trained.prior)
    few = relabelled(coded.held_out_codes, tmp_path / "few", own)
    whole = relabelled(coded.held_out_codes, tmp_path / "whole", CLASSES, keep=own)
    right = held_out_figures(prior, whole)["bits_per_code"]
    assert held_out_figures(prior, few)["bits_per_code"] == pytest.approx(right, rel=1e-12)
    config = EvaluateConfig(prior=trained.prior, codes=few, out=str(tmp_path / "out.json"))
    assert evaluate(config)["bits_per_code"] == pytest.approx(right, rel=1e-6)
    assert "are matched by name with the 3 of the prior" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("own", "keep", "words"),
    [
        (("ant", "circle"), None, "has classes that the prior has not: ant;"),
        (("0", "1", "2"), CLASSES, "the prior has not: 0, 1, 2"),
        ((*CLASSES, "zebra"), None, "the prior has not: zebra"),
        ((), CLASSES, "has no classes, the prior has 3"),
    ],
)
def test_other_classes_are_refused_in_one_line(
    coded: Coded, trained: Trained, tmp_path: Path, own: tuple[str, ...], keep: tuple[str, ...] | None, words: str
) -> None:
    other = relabelled(coded.held_out_codes, tmp_path / "other", own, keep)
    with pytest.raises(UserError, match=words) as error:
        evaluate(EvaluateConfig(prior=trained.prior, codes=other, out=str(tmp_path / "out.json")))
    assert "\n" not in str(error.value) and "codes=" in str(error.value)
    assert not (tmp_path / "out.json").exists()
    config = settings(coded, tmp_path / "run")
    with pytest.raises(UserError, match=r"data\.held_out=.*" + words.replace("the prior", "the (prior|training)")):
        train(replace(config, data=replace(config.data, held_out=other)))
    assert not (tmp_path / "run").exists()


def test_training_evaluates_a_part_of_the_classes_by_name(coded: Coded, tmp_path: Path) -> None:
    few = relabelled(coded.held_out_codes, tmp_path / "few", ("star",))
    whole = relabelled(coded.held_out_codes, tmp_path / "whole", CLASSES, keep=("star",))
    figures = []
    for name, held_out in (("few", few), ("whole", whole)):
        config = settings(coded, tmp_path / f"{name}-run", steps=2)
        assert train(replace(config, data=replace(config.data, held_out=held_out))) == 0
        figures.append(
            [
                line["eval/bits_per_code"]
                for line in read(tmp_path / f"{name}-run" / "metrics.jsonl")
                if line["kind"] == "eval"
            ]
        )
    assert figures[0] == figures[1]


def test_a_mixture_has_the_classes_of_the_first_and_codes_of_one_tokenizer(coded: Coded, tmp_path: Path) -> None:
    config = settings(coded, tmp_path / "run")

    def mixed(path: str) -> None:
        checked_codes(replace(config, data=replace(config.data, mixture={path: 0.5})))

    mixed(relabelled(coded.codes, tmp_path / "few", ("star", "square")))
    with pytest.raises(UserError, match=r"data\.mixture\[.*the training|data\.index has not: ant"):
        mixed(relabelled(coded.codes, tmp_path / "other", ("ant", "star")))
    foreign = tmp_path / "foreign" / "index.json"
    shutil.copytree(Path(coded.codes).parent, foreign.parent)
    foreign.write_text(foreign.read_text().replace(load_index(coded.codes).meta["tokenizer"], "0" * 64))
    with pytest.raises(UserError, match=r"data\.mixture.*fingerprint"):
        mixed(str(foreign))


def test_text_priors_need_captions_wherever_they_are_measured(coded: Coded, tmp_path: Path) -> None:
    codes = tmp_path / "codes" / "index.json"
    shutil.copytree(Path(coded.codes).parent, codes.parent)
    values = json.loads(codes.read_text())
    values["meta"]["captions"] = 3
    codes.write_text(json.dumps(values))
    config = settings(coded, tmp_path / "run", model=PriorModelConfig(condition="text"))
    with pytest.raises(UserError, match=r"data\.held_out=.* has no captions"):
        checked_codes(replace(config, data=replace(config.data, index=str(codes))))


def test_a_label_beyond_the_classes_never_becomes_another_token() -> None:
    vocabulary = Vocabulary(16, CLASSES)
    for label in (3, 4, 100, -2):
        with pytest.raises(UserError, match=f"class id {label} is outside the 3 classes"):
            vocabulary.class_tokens(torch.tensor([0, label]))
    assert vocabulary.class_tokens(torch.tensor([], dtype=torch.int64)).tolist() == []


def test_agreement_reads_real_pictures_by_class_name(coded: Coded, trained: Trained, tmp_path: Path) -> None:
    """The list of classes turned round in the index, and the labels in the shards with it, changes no figure."""
    turned = {}
    for name, source in (("data", coded.pictures), ("held_out", coded.held_out)):
        turned[name] = _turned(source, tmp_path / name)
    config = EvaluateConfig(
        prior=trained.prior,
        samples=str(trained.samples),
        data=coded.pictures,
        held_out=coded.held_out,
        out=str(tmp_path / "one.json"),
    )
    one, other = evaluate(config), evaluate(replace(config, **turned))
    for figure in ("class_agreement", "class_agreement_by_class", "real_accuracy"):
        assert one[figure] == other[figure]


def _turned(source: str, folder: Path) -> str:
    """Pictures with the list of classes turned round."""
    from data.reading.readers import LocalReader, NumberedShards
    from data.shards.sample import read_sample

    index = load_index(source)
    reader, samples = LocalReader(NumberedShards([index])), []
    for shard, count in enumerate(index.sizes):
        for position in range(count):
            sample = read_sample(reader.read(shard, position))
            files = {name: bytes(content) for name, content in sample.files.items()}
            samples.append((sample.key, files | {"cls": str(2 - int(files["cls"])).encode()}))
    reader.close()
    writer = ShardWriter(folder)
    writer.begin({}, ["index.json"])
    record = writer.write("pictures-000000.tar", samples)
    writer.finish({"index.json": writer.index([record], name="turned", classes=list(CLASSES)[::-1])})
    return str(folder / "index.json")


def test_given_pictures_keep_the_class_of_their_name(coded: Coded, trained: Trained, tmp_path: Path) -> None:
    prior = load_prior(trained.prior)
    transform = read_transform(prior.source.transform)

    def labels(given: str, **settings: Any) -> list[int]:
        return read_given(
            InpaintConfig(prior="", tokenizer="", out="", given=given, limit=9, **settings), transform, prior
        )[2]

    turned = _turned(coded.held_out, tmp_path / "turned")
    assert labels(turned) == labels(coded.held_out)
    file = Path(turned)
    file.write_text(file.read_text().replace('"star"', '"comet"'))
    with pytest.raises(UserError, match=r"given=.* has classes that the prior has not: comet"):
        labels(turned)
    assert labels(turned, classes=["star"]) == [-1] * 9


def test_samples_of_another_prior_are_not_measured_for_this_one(coded: Coded, trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.samples, tmp_path / "samples")
    described = json.loads((tmp_path / "samples" / "samples.json").read_text())
    (tmp_path / "samples" / "samples.json").write_text(json.dumps(described | {"prior_weights": "0" * 64}))
    with pytest.raises(UserError, match="are of another prior"):
        evaluate(
            EvaluateConfig(
                prior=trained.prior,
                samples=str(tmp_path / "samples"),
                data=coded.pictures,
                out=str(tmp_path / "o.json"),
            )
        )


def test_another_set_of_codes_in_a_run_s_place_is_refused(coded: Coded, tmp_path: Path) -> None:
    """The order of events in a real accident: train, encode other pictures to the same folder, start again."""
    place = tmp_path / "codes" / "index.json"
    relabelled(coded.codes, place.parent, CLASSES)
    config = settings(coded, tmp_path / "run", steps=4)
    config = replace(config, data=replace(config.data, index=str(place)))
    assert train(config) == 0
    shutil.rmtree(place.parent)
    relabelled(coded.held_out_codes, place.parent, CLASSES)
    longer = replace(config, steps=6, run=replace(config.run, allow_changes=["steps"]))
    with pytest.raises(UserError, match=r"data\.index doesn't hold the data that the run in .* began on"):
        train(longer)
    shutil.rmtree(place.parent)
    relabelled(coded.codes, place.parent, CLASSES)
    assert train(longer) == 0


def test_a_tokenizer_of_another_seed_is_another_source(coded: Coded, tmp_path: Path) -> None:
    config = settings(coded, tmp_path / "run")
    with pytest.raises(UserError, match="fingerprint"):
        checked_codes(replace(config, tokenizer=write_tokenizer(tmp_path / "tokenizer", seed=3)))
