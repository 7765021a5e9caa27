from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.cli import UserError
from data.stream import every_sample
from data.transforms import to_float, to_uint8
from stage1_tokenizer.evaluate import EvaluateConfig, evaluate
from stage1_tokenizer.measures import psnr
from stage1_tokenizer.pictures import side_by_side
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
    found = evaluate(config(released, pictures=str(released.parent / "e.png"), picture_count=5))
    tokenizer = tiny.tokenizer()
    (batch,) = every_sample(HELD_OUT, tiny.TRANSFORM, batch_size=51, limit=51)
    recon_BCHW, idx_Bhw = tokenizer.reconstruct(to_float(batch.pixels_BCHW))
    assert idx_Bhw is not None
    assert found["psnr"] == pytest.approx(float(psnr(to_uint8(recon_BCHW), batch.pixels_BCHW).mean()), abs=1e-3)
    assert found["codes_used"] == len(torch.unique(idx_Bhw))
    assert found["samples"] == 51 and found["bits_per_pixel"] == pytest.approx(64 * 5 / 256)
    on_disk = json.loads((released.parent / "e.json").read_text())
    assert on_disk == found
    assert on_disk["measured"]["fingerprint"] == tokenizer.fingerprint
    assert {"commit", "transform", "data", "pictures", "hardware"} <= set(on_disk["measured"])
    page = np.asarray(Image.open(released.parent / "e.png"))
    assert page.shape == (2 * 16 + 8, 4 * (2 * 16 + 2 + 8) - 8, 3)


def _on_a_rank(values: EvaluateConfig) -> dict[str, float]:
    found = evaluate(values)
    found.pop("measured")
    return found


def test_two_ranks_find_what_one_finds(released: Path):
    one = _on_a_rank(config(released))
    two = run_distributed_test(_on_a_rank, 2, [config(released, "two.json", batch_size=4)])
    assert two[0] == two[1] == pytest.approx(one, abs=1e-3)
    three = run_distributed_test(_on_a_rank, 3, [config(released, "three.json", samples=2)])
    assert three[0]["samples"] == 2  # one of the ranks has no picture


def test_files_that_exist_are_left_alone(released: Path):
    (released.parent / "e.json").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        evaluate(config(released))
    assert (released.parent / "e.json").read_text() == "mine"
    assert evaluate(config(released, samples=3, overwrite=True))["samples"] == 3


def test_a_tokenizer_without_its_transform_is_refused(released: Path):
    (released / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"no preprocessor_config\.json"):
        evaluate(config(released))


def test_originals_stand_beside_reconstructions():
    x, y = torch.zeros(3, 3, 4, 4, dtype=torch.uint8), torch.full((3, 3, 4, 4), 200, dtype=torch.uint8)
    x[1], y[1] = 10, 20
    page = side_by_side(x, y, columns=2)
    assert page.shape == (2 * 4 + 8, 2 * 10 + 8, 3)
    assert (page[:4, :4] == 0).all() and (page[:4, 6:10] == 200).all()
    assert (page[:4, 18:22] == 10).all() and (page[:4, 24:28] == 20).all()
    assert (page[12:, 18:] == 255).all()
