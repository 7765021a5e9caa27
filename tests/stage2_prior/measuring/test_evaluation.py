from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.pictures.config import TransformConfig
from launch.command.cli import UserError
from stage1_tokenizer.measuring.results import report
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.measuring.classifier import features, fitted_classifier, real_samples
from stage2_prior.measuring.evaluation import classified, evaluate
from stage2_prior.measuring.feature_classifier import by_vgg16
from stage2_prior.measuring.held_out import held_out_figures
from stage2_prior.priors.build import load_prior
from tests.distributed import run_distributed_test
from tests.stage2_prior.conftest import Coded, Trained

MNIST = Path(__file__).parents[3] / "data" / "samples" / "mnist"


def test_results_are_written_and_right(coded: Coded, trained: Trained, tmp_path: Path):
    config = EvaluateConfig(
        prior=trained.prior,
        tokenizer=coded.tokenizer,
        codes=coded.held_out_codes,
        samples=str(trained.samples),
        data=coded.pictures,
        held_out=coded.held_out,
        out=str(tmp_path / "new" / "prior.json"),
    )
    results = evaluate(config)
    assert json.loads((tmp_path / "new" / "prior.json").read_text()) == results
    assert results["bits_per_code"] == pytest.approx(
        held_out_figures(load_prior(trained.prior), coded.held_out_codes)["bits_per_code"]
    )
    assert results["real_accuracy"] >= 0.95, "halves of pictures are easily told apart"
    assert (results["samples"], results["real_samples"], results["codes"]) == (21, 18, 18)
    assert results["class_agreement"] == pytest.approx(np.mean(list(results["class_agreement_by_class"].values())))


def _on_a_rank(config: EvaluateConfig) -> dict[str, Any]:
    return evaluate(config)


def test_bf16_is_another_arithmetic_and_the_result_says_so(coded: Coded, trained: Trained, tmp_path: Path):
    found = {}
    for precision in ("fp32", "bf16"):
        config = EvaluateConfig(prior=trained.prior, codes=coded.held_out_codes, out=str(tmp_path / precision))
        found[precision] = evaluate(replace(config, precision=precision))  # type: ignore[arg-type]
        assert found[precision]["measured"]["precision"] == precision
    exact, coarse = found["fp32"]["bits_per_code"], found["bf16"]["bits_per_code"]
    assert coarse != exact and coarse == pytest.approx(exact, rel=0.01)


def test_two_ranks_measure_codes_and_samples_as_one_does(coded: Coded, trained: Trained, tmp_path: Path):
    config = EvaluateConfig(
        prior=trained.prior,
        codes=coded.held_out_codes,
        samples=str(trained.samples),
        reference=coded.held_out,
        batch_size=5,
        out=str(tmp_path / "one.json"),
    )
    one = evaluate(config)
    assert {"frechet_vgg16", "kid_vgg16", "precision_vgg16", "recall_vgg16"} <= set(one)
    measured = one["measured"]
    assert (measured["samples"], measured["reference"]["pictures"], measured["codes"]["count"]) == (21, 18, 18)
    assert measured["sampling"]["guidance"] == 2.0 and measured["fingerprint"] == one["tokenizer"]
    two = run_distributed_test(_on_a_rank, 2, [replace(config, out=str(tmp_path / "two.json"))])
    for found in two:
        assert report(one, found)[0]
        for name in [name for name, value in one.items() if isinstance(value, float)]:
            assert found[name] == pytest.approx(one[name], rel=1e-6, abs=1e-9), name


def test_foreign_pictures_need_no_prior(coded: Coded, trained: Trained, tmp_path: Path):
    """The samples' PNGs in a folder of others, and in ADM's .npz, are the same set at the same distance."""
    files = sorted(path for path in trained.samples.glob("*/*.png"))
    np.savez(tmp_path / "samples.npz", np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]))
    (tmp_path / "folder").mkdir()
    for number, file in enumerate(files):
        (tmp_path / "folder" / f"{number}.png").write_bytes(file.read_bytes())
    found = []
    for name in ("samples.npz", "folder"):
        saved = str(tmp_path / f"{name}-reference.npz")
        config = EvaluateConfig(
            samples=str(tmp_path / name),
            reference=coded.held_out,
            save_reference=saved,
            out=str(tmp_path / f"{name}.json"),
        )
        found.append(evaluate(config))
        again = evaluate(replace(config, reference=saved, save_reference=None, out=str(tmp_path / "again.json")))
        assert again["frechet_vgg16"] == pytest.approx(found[-1]["frechet_vgg16"], rel=1e-9)
        assert again["measured"]["reference"] == found[-1]["measured"]["reference"]
    comparable, lines = report(*found)
    assert comparable and "bits_per_code" not in "".join(lines)
    assert found[0]["measured"]["measured_set"]["hash"] == found[1]["measured"]["measured_set"]["hash"]
    assert found[0]["frechet_vgg16"] == pytest.approx(found[1]["frechet_vgg16"], rel=1e-6)


def test_agreement_counts_the_samples_that_show_their_class(coded: Coded, trained: Trained, tmp_path: Path):
    """Real pictures in the samples' place, a third of them under a wrong class."""
    described = json.loads((trained.samples / "samples.json").read_text())
    for one in described["classes"]:
        one["count"] = 3
    (tmp_path / "samples.json").write_text(json.dumps(described))
    label_B, pixels_BCHW = real_samples(coded.held_out, TransformConfig(size=16, channels=1), 100, 8)
    for one in described["classes"]:
        (tmp_path / one["folder"]).mkdir()
        for number in range(3):
            shown = one["label"] if number else (one["label"] + 1) % 3
            pixels_HW = pixels_BCHW[np.flatnonzero(label_B == shown)[number], 0]
            Image.fromarray(pixels_HW).save(tmp_path / one["folder"] / f"{number:05d}.png")
    config = EvaluateConfig(
        prior=trained.prior, samples=str(tmp_path), data=coded.pictures, out=str(tmp_path / "o.json")
    )
    assert evaluate(config)["class_agreement"] == pytest.approx(2 / 3)


def textures(count: int, seed: int, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Labels and coloured stripes at random places, level or upright: alike in their coarse means."""
    random = np.random.default_rng(seed)
    label_B, shift_B = np.arange(count) % 2, random.integers(0, 4, count)
    lines = (np.arange(side)[None] + shift_B[:, None]) // 2 % 2 * 120
    pixels_BHW = np.where(label_B[:, None, None] == 0, lines[:, :, None], lines[:, None, :])
    colours_BC = random.integers(60, 135, (count, 3))
    return label_B, (pixels_BHW[:, None] + colours_BC[:, :, None, None]).astype(np.uint8)


def test_vgg16_tells_apart_what_coarse_pixels_do_not():
    transform, (label_B, pixels_BCHW) = TransformConfig(size=24), textures(60, 1)
    seen_B, other_BCHW = textures(40, 2)
    right = by_vgg16().fitted(label_B, pixels_BCHW, transform)(other_BCHW) == seen_B
    assert right.mean() >= 0.95
    grey = by_vgg16().fitted(label_B, pixels_BCHW[:, :1], transform)(other_BCHW[:, :1]) == seen_B
    assert grey.mean() >= 0.95, "pictures of one channel too"


def test_evaluation_by_vgg16_says_so_and_is_for_pictures(coded: Coded, trained: Trained, tmp_path: Path):
    config = EvaluateConfig(
        prior=trained.prior, samples=str(trained.samples), data=coded.pictures, out=str(tmp_path / "a.json")
    )
    results = [evaluate(replace(config, out=str(tmp_path / f"{name}.json"), classifier=name))
               for name in ("default", "vgg16")]  # fmt: skip
    assert [("VGG16" in found["classifier"]) for found in results] == [False, True]
    assert 0 <= results[1]["class_agreement"] <= 1
    comparable, lines = report(*[json.loads((tmp_path / f"{name}.json").read_text()) for name in ("default", "vgg16")])
    assert comparable and any("not comparable" in line and "class_agreement" in line for line in lines)
    sounds: Any = SimpleNamespace(source=SimpleNamespace(kind="sounds"))
    with pytest.raises(UserError, match="sounds have a classifier of their own: leave classifier=vgg16 out"):
        classified(replace(config, classifier="vgg16"), sounds)


@pytest.mark.slow
def test_the_classifier_knows_real_digits():
    transform = TransformConfig(size=32, channels=1, fit="pad", background=0)
    classifier = fitted_classifier(*real_samples(str(MNIST / "train.json"), transform, 10_000, 256))
    label_B, pixels_BCHW = real_samples(str(MNIST / "held_out.json"), transform, 10_000, 256)
    assert (classifier(pixels_BCHW) == label_B).mean() >= 0.95


def test_features_are_coarse_means():
    pixels_BCHW = np.zeros((1, 1, 32, 32), dtype=np.uint8)
    pixels_BCHW[0, 0, :2, 2:4] = 255
    found_BF = features(pixels_BCHW)
    assert found_BF.shape == (1, 256)
    assert found_BF[0].nonzero()[0].tolist() == [1]
    assert found_BF[0, 1] == 1.0


def test_what_does_not_belong_together_is_refused(coded: Coded, trained: Trained, tmp_path: Path):
    config = EvaluateConfig(prior=trained.prior, codes=coded.pictures, out=str(tmp_path / "o.json"))
    with pytest.raises(UserError, match=r"codes=.* holds no codes"):
        evaluate(config)
    with pytest.raises(UserError, match="holds no finished samples"):
        evaluate(replace(config, codes=None, samples=str(tmp_path), data=coded.pictures))
    with pytest.raises(UserError, match="neither a folder"):
        evaluate(replace(config, codes=None, samples=coded.pictures, reference=coded.pictures))
    for wrong, message in (
        ({"prior": "p"}, "nothing to measure"),
        ({"prior": "p", "samples": "s"}, "samples go with"),
        ({"prior": "p", "codes": "c", "reference": "r"}, "samples go with"),
        ({"codes": "c"}, "need prior"),
        ({"samples": "s", "data": "d"}, "need prior"),
        ({"prior": "p", "codes": "c", "save_reference": "r"}, "needs reference"),
        ({"samples": "s", "reference": "r", "features": "none"}, "need features"),
        ({"samples": "s", "reference": "r", "kept": 3}, "set it to 4 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            EvaluateConfig(out="o", **wrong)  # type: ignore[arg-type]
