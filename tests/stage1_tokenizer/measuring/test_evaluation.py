from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures.transforms import to_float, to_uint8
from data.reading.stream import every_sample
from launch.command.cli import UserError
from launch.run.metrics import FILE, read
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.losses.lpips import load_lpips
from stage1_tokenizer.measuring.distances import Gaussian, frechet, kid, precision_recall
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer as evaluate
from stage1_tokenizer.measuring.results import report
from stage1_tokenizer.measuring.scores import psnr
from stage1_tokenizer.measuring.side_by_side import side_by_side
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer import tiny

HELD_OUT = str(tiny.ROOT / tiny.HELD_OUT)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def config(released: Path, name: str = "e.json", **changes: object) -> EvaluateConfig:
    values = {"samples": 51, "batch_size": 8, "lpips": False, **changes}
    return EvaluateConfig(tokenizer=str(released), data=HELD_OUT, out=str(released.parent / name), **values)  # type: ignore[arg-type]


def test_figures_are_those_of_all_pictures_at_once(released: Path):
    changes = {"pictures": str(released.parent / "e.png"), "picture_count": 5, "features": "none"}
    found = evaluate(config(released, **changes))
    tokenizer = tiny.tokenizer()
    (batch,) = every_sample(HELD_OUT, tiny.TRANSFORM, batch_size=51, limit=51)
    recon_BCHW, idx_Bhw = tokenizer.reconstruct(to_float(batch.pixels_BCHW))
    assert idx_Bhw is not None
    assert found["psnr"] == pytest.approx(float(psnr(to_uint8(recon_BCHW), batch.pixels_BCHW).mean()), rel=1e-6)
    assert found["codes_used"] == len(torch.unique(idx_Bhw))
    assert found["samples"] == 51 and found["bits_per_pixel"] == pytest.approx(64 * 5 / 256)
    on_disk = json.loads((released.parent / "e.json").read_text())
    assert on_disk == found
    assert on_disk["measured"]["fingerprint"] == tokenizer.fingerprint
    assert {"commit", "transform", "data", "data_hash", "pictures", "hardware", "version"} <= set(on_disk["measured"])
    page = np.asarray(Image.open(released.parent / "e.png"))
    assert page.shape == (2 * 16 + 8, 4 * (2 * 16 + 2 + 8) - 8, 3)


def plain_loop() -> dict[str, float]:
    """The distances on VGG16 and LPIPS, from all features at once; in batches of 8, on which last digits depend."""
    lpips, tokenizer = load_lpips("vgg"), tiny.tokenizer()
    (batch,) = every_sample(HELD_OUT, tiny.TRANSFORM, batch_size=51, limit=51)
    pixels_BCHW = torch.cat([batch.pixels_BCHW, batch.pixels_BCHW[:5]])
    recons, originals, scores = [], [], []
    for x_BCHW in to_float(pixels_BCHW).split(8):
        rounded_BCHW = to_uint8(tokenizer.reconstruct(x_BCHW)[0])
        taps = [lpips.features(shown_BCHW) for shown_BCHW in (to_float(rounded_BCHW), x_BCHW)]
        scores.append(lpips.distance(*taps))
        recons.append(taps[0][-1].mean((2, 3)).double())
        originals.append(taps[1][-1].mean((2, 3)).double())
    x_BD, y_BD = torch.cat(recons)[:51], torch.cat(originals)[:51]
    return {
        "lpips": float(torch.cat(scores)[:51].double().mean()),
        "frechet_vgg16": frechet(*(Gaussian(h_BD.mean(0), h_BD.T.cov()) for h_BD in (x_BD, y_BD))),
        "kid_vgg16": kid(x_BD, y_BD),
        "precision_vgg16": precision_recall(x_BD, y_BD)[0],
        "recall_vgg16": precision_recall(x_BD, y_BD)[1],
    }


def _on_a_rank(values: EvaluateConfig) -> dict[str, float]:
    return evaluate(values)


def test_two_ranks_agree_with_one_and_with_a_plain_loop(released: Path):
    one = evaluate(config(released, lpips=True))
    wanted = plain_loop()
    assert {name: one[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)
    two = run_distributed_test(_on_a_rank, 2, [config(released, "two.json", lpips=True)])
    comparable, lines = report(one, two[1])
    assert comparable and "  ranks: 1 | 2" in lines
    measured = one.pop("measured")
    for found in two:
        assert found.pop("measured")["reference"] == measured["reference"]
        assert found == pytest.approx(one, rel=1e-6)
    three = run_distributed_test(_on_a_rank, 3, [config(released, "three.json", samples=2, features="none")])
    assert three[0]["samples"] == 2  # one of the ranks has no picture


def test_a_saved_reference_replaces_the_originals(released: Path):
    saved = str(released.parent / "reference.npz")
    one = evaluate(config(released, save_reference=saved))
    again = evaluate(config(released, "again.json", reference=saved))
    assert report(one, again)[0] and one["frechet_vgg16"] == pytest.approx(again["frechet_vgg16"], rel=1e-9)
    fewer = evaluate(config(released, "fewer.json", reference=saved, samples=50))
    assert not report(one, fewer)[0] and fewer["measured"]["reference"] == one["measured"]["reference"]
    with pytest.raises(ValueError, match="need features"):
        config(released, reference=saved, features="none")
    with pytest.raises(UserError, match="exists"):
        evaluate(config(released, "last.json", save_reference=saved))


def test_the_command_compares(released: Path):
    evaluate(config(released, features="none"))
    done = tiny.call("stage1_tokenizer.evaluate", ["--compare", *[str(released.parent / "e.json")] * 2])
    assert done.returncode == 0 and "psnr" in done.stdout


def test_existing_files_are_not_overwritten(released: Path):
    (released.parent / "e.json").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        evaluate(config(released))
    assert (released.parent / "e.json").read_text() == "mine"
    assert evaluate(config(released, samples=3, overwrite=True, features="none"))["samples"] == 3


def test_a_tokenizer_without_its_transform_is_refused(released: Path):
    (released / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"no preprocessor_config\.json"):
        evaluate(config(released))


def test_originals_are_next_to_reconstructions():
    x, y = torch.zeros(3, 3, 4, 4, dtype=torch.uint8), torch.full((3, 3, 4, 4), 200, dtype=torch.uint8)
    x[1], y[1] = 10, 20
    page = side_by_side(x, y, columns=2)
    assert page.shape == (2 * 4 + 8, 2 * 10 + 8, 3)
    assert (page[:4, :4] == 0).all() and (page[:4, 6:10] == 200).all()
    assert (page[:4, 18:22] == 10).all() and (page[:4, 24:28] == 20).all()
    assert (page[12:, 18:] == 255).all()


def test_training_measures_what_the_command_measures(tmp_path: Path):
    options = tiny.arguments(tmp_path / "run", steps=1, evaluate_features="vgg16")
    done = tiny.call("stage1_tokenizer.train", options)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in read(tmp_path / "run" / FILE) if line["kind"] == "eval"]
    found = evaluate(
        EvaluateConfig(
            tokenizer=str(tmp_path / "run"), data=HELD_OUT, out=str(tmp_path / "e.json"), samples=20, lpips=False
        )
    )
    for name in ("psnr", "frechet_vgg16", "kid_vgg16", "precision_vgg16", "recall_vgg16"):
        assert line[f"eval/{name}"] == pytest.approx(found[name], rel=1e-4), name


def test_the_distance_of_perturbed_codes_says_what_it_is(released: Path):
    few = {"samples": 12, "perturb_nearest": 6}
    none, some = (evaluate(config(released, f"{share}.json", perturb_share=share, **few)) for share in (1e-9, 0.3))
    name = "frechet_vgg16_perturbed_0.3_of_6"
    assert none["frechet_vgg16_perturbed_1e-09_of_6"] == pytest.approx(none["frechet_vgg16"], rel=1e-6)
    assert some["frechet_vgg16"] == none["frechet_vgg16"] != pytest.approx(some[name], rel=1e-3)
    about = some["measured"]["metrics"][name]
    assert about["definition"].endswith("share 0.3, nearest 6") and about["hash"]
    again = json.loads(json.dumps(some))
    again["measured"]["metrics"][name]["hash"] = "another"
    comparable, lines = report(some, again)
    assert comparable and any(f"their conditions differ: {name}" in line for line in lines)
    with pytest.raises(ValueError, match=r"perturb_share=0\.3 needs features"):
        config(released, perturb_share=0.3, features="none")
