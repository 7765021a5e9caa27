from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures.transforms import to_uint8
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.sampling import SampleConfig
from stage2_prior.priors.build import load_prior
from stage2_prior.sample import sample
from stage2_prior.sampling.conditions import Classes, folder_names
from stage2_prior.sampling.pictures import Picture, Sampling, picture_grid, sample_codes, uniforms
from tests.stage2_prior.conftest import Coded, Trained
from tests.stage2_prior.tiny import CLASSES, tiny_prior, write_tokenizer


def sampling(coded: Coded, prior: str, **changes: Any) -> SampleConfig:
    defaults = {"count": 7, "batch_size": 4, "guidance": 2.0, "seed": 3, "out": ""}
    return SampleConfig(prior=prior, tokenizer=coded.tokenizer, **(defaults | changes))


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def codes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "codes").iterdir()}


def test_exactly_count_pictures_of_each_class_which_are_their_codes_decoded(coded: Coded, trained: Trained):
    found = sorted(pictures(trained.samples))
    wanted = [f"{name}/{number:05d}.png" for name in CLASSES for number in range(7)]
    assert found == sorted([*wanted, "grid.png"])
    described = json.loads((trained.samples / "samples.json").read_text())
    assert described["complete"] and described["pictures"] == 21
    assert described["tokenizer"] == load_prior(trained.prior).source.tokenizer
    batches = [np.load(path) for path in sorted((trained.samples / "codes").iterdir())]
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 1]
    assert batches[0].dtype == np.uint16
    x_BCHW = Tokenizer.from_pretrained(coded.tokenizer).decode(torch.from_numpy(np.concatenate(batches).astype(int)))
    for i, pixels_CHW in enumerate(to_uint8(x_BCHW)):
        file = trained.samples / CLASSES[i % 3] / f"{i // 3:05d}.png"
        # The decoder's rounding differs with the batch's size by at most one grey step.
        assert np.abs(np.asarray(Image.open(file)).astype(int) - pixels_CHW[0].numpy().astype(int)).max() <= 1


def test_randomness_belongs_to_the_picture():
    alone_1N = uniforms(3, [Picture(1, 5)], 16)
    among_3N = uniforms(3, [Picture(0, 5), Picture(1, 5), Picture(1, 6)], 16)
    assert torch.equal(alone_1N[0], among_3N[1])
    assert len({tuple(row) for row in among_3N.tolist()}) == 3
    assert not torch.equal(uniforms(4, [Picture(1, 5)], 16), alone_1N)
    assert float(among_3N.min()) >= 0 and float(among_3N.max()) < 1


def test_a_picture_does_not_depend_on_those_drawn_beside_it():
    prior, drawing = tiny_prior(), Drawing(guidance=2.0, top_p=0.95)
    wanted = [Picture(label, number) for number in range(4) for label in range(3)]
    together_Bhw = sample_codes(prior, wanted, 7, drawing)
    assert torch.equal(sample_codes(prior, wanted, 7, drawing), together_Bhw)
    assert not torch.equal(sample_codes(prior, wanted, 8, drawing), together_Bhw)
    for size in (1, 5):
        parts = [sample_codes(prior, wanted[i : i + size], 7, drawing) for i in range(0, 12, size)]
        assert torch.equal(torch.cat(parts), together_Bhw)


def killed(config: SampleConfig, after: int) -> None:
    """A sampling that is killed with no notice once it has drawn `after` batches."""
    real, done = Sampling.draw, 0

    def draw(self: Sampling, *args: Any) -> None:
        nonlocal done
        if done == after:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        real(self, *args)

    Sampling.draw = draw  # type: ignore[method-assign]
    sample(config)


def test_killed_and_continued_gives_the_same_pictures(coded: Coded, trained: Trained, tmp_path: Path):
    config = replace(sampling(coded, trained.prior), out=str(tmp_path / "out"))
    process = multiprocessing.get_context("fork").Process(target=killed, args=(config, 3))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "codes").iterdir()}
    assert 1 <= len(before) <= 3, "the last ones may not have been written yet"
    assert sample(config) == 0
    assert all(path.stat().st_mtime_ns == at for path, at in before.items()), "what was there isn't drawn again"
    assert pictures(tmp_path / "out") == pictures(trained.samples)


def test_a_dry_run_says_what_is_missing_and_draws_nothing(
    coded: Coded, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = sampling(coded, trained.prior, dry_run=True, out=str(tmp_path / "out"))
    assert sample(config) == 0
    told = capsys.readouterr().out
    assert told.startswith("3 classes × 7 pictures in 6 batches of 4, 21 of them not there yet; autoregressive prior")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").symlink_to(trained.samples)
    assert sample(config) == 0 and ", 0 of them not there yet" in capsys.readouterr().out


def test_chosen_classes_and_an_npz_for_the_adm_suite(coded: Coded, trained: Trained, tmp_path: Path):
    config = sampling(coded, trained.prior, classes=["star", "0"], count=2, npz=True, out=str(tmp_path / "out"))
    assert sample(config) == 0
    assert sorted(pictures(tmp_path / "out"))[:2] == ["circle/00000.png", "circle/00001.png"]
    assert np.load(tmp_path / "out" / "samples.npz")["arr_0"].shape == (4, 16, 16, 3)
    # The same seed, class and number are the same picture as among all classes.
    same = [(tmp_path / "out" / name).read_bytes() == (trained.samples / name).read_bytes() for name in
            ("circle/00000.png", "star/00001.png")]  # fmt: skip
    assert all(same)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["triangle"]}, r"class 'triangle' is not one of .* use 0 to 2, or a name"),
        ({"prior": "nowhere"}, r"prior=nowhere holds no prior\.json"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(
    coded: Coded, trained: Trained, tmp_path: Path, changes: dict[str, Any], message: str
):
    config = replace(sampling(coded, trained.prior), out=str(tmp_path / "out"), **changes)
    with pytest.raises(UserError, match=message) as caught:
        sample(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_tokenizer_and_another_samplings_folder_are_refused(coded: Coded, trained: Trained, tmp_path: Path):
    other = write_tokenizer(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match="give the tokenizer that made them"):
        sample(replace(sampling(coded, trained.prior), tokenizer=other, out=str(tmp_path / "out")))
    before = pictures(trained.samples)
    with pytest.raises(UserError, match="holds samples with another settings"):
        sample(replace(sampling(coded, trained.prior), out=str(trained.samples), seed=4))
    assert pictures(trained.samples) == before


def test_a_grid_has_gaps_of_two_pixels_and_none_around() -> None:
    rows = [[Image.new("L", (3, 4), 10 * y + x) for x in range(3)] for y in range(2)]
    grid = picture_grid(rows)
    assert grid.size == (3 * 3 + 2 * 2, 2 * 4 + 2) and grid.mode == "L"
    pixels_HW = np.asarray(grid)
    for y in range(2):
        for x in range(3):
            assert (pixels_HW[6 * y : 6 * y + 4, 5 * x : 5 * x + 3] == 10 * y + x).all()
    assert (pixels_HW[4:6] == 255).all() and (pixels_HW[:, 3:5] == 255).all() and (pixels_HW[:, 8:10] == 255).all()


def fresh(tmp_path: Path, **changes: Any) -> Sampling:
    config = SampleConfig(
        prior="", tokenizer="", **({"out": str(tmp_path / "out"), "count": 3, "batch_size": 4} | changes)
    )
    prior = tiny_prior()
    return Sampling(config, prior, Classes(prior, None))


def test_pictures_are_shared_out_to_batches_and_parts(tmp_path: Path) -> None:
    sampling = fresh(tmp_path)
    assert [[(picture.label, picture.number) for picture in batch] for batch in sampling.batches] == [
        [(0, 0), (1, 0), (2, 0), (0, 1)],
        [(1, 1), (2, 1), (0, 2), (1, 2)],
        [(2, 2)],
    ]
    assert sampling.missing() == [0, 1, 2]
    assert [sampling.missing(part, 2) for part in range(2)] == [[0, 2], [1]]
    assert sampling.path(Picture(2, 1)) == tmp_path / "out" / "star" / "00001.png"
    assert sampling.codes_path(2) == tmp_path / "out" / "codes" / "000002.npy"


def test_a_batch_is_done_when_its_codes_and_all_its_pictures_are_there(tmp_path: Path) -> None:
    sampling = fresh(tmp_path)
    sampling.begin()
    for picture in sampling.batches[0]:
        assert not sampling.done(0)
        sampling.path(picture).touch()
    assert not sampling.done(0)
    sampling.codes_path(0).touch()
    assert sampling.done(0) and sampling.missing() == [1, 2]


def test_a_folder_of_something_else_is_refused_and_one_of_the_same_goes_on(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fresh(tmp_path).begin()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "circle",
        "codes",
        "samples.json",
        "square",
        "star",
    ]
    before = (tmp_path / "out" / "samples.json").read_bytes()
    fresh(tmp_path).begin()
    assert (tmp_path / "out" / "samples.json").read_bytes() == before
    for changes in ({"seed": 5}, {"count": 4}, {"temperature": 0.5}):
        with pytest.raises(UserError, match="holds samples with another"):
            fresh(tmp_path, **changes).begin()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.pdf").touch()
    with pytest.raises(UserError, match=r"other isn't empty and holds no samples\.json: choose another folder"):
        fresh(tmp_path, out=str(tmp_path / "other")).begin()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.pdf"]


def test_a_finished_sampling_says_how_long_it_took_for_what_was_drawn(tmp_path: Path) -> None:
    sampling = fresh(tmp_path, count=2, npz=True)
    sampling.begin()
    for number, picture in enumerate(picture for batch in sampling.batches for picture in batch):
        Image.new("L", (4, 4), number).save(sampling.path(picture))
    sampling.finish(2.0, 0)
    described = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert described["pictures"] == 6 and described["complete"] and "seconds" not in described
    sampling.finish(2.00049, 5)
    described = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert (described["seconds"], described["pictures_per_second"]) == (2.0, 2.499)
    assert Image.open(tmp_path / "out" / "grid.png").size == (2 * 4 + 2, 3 * 4 + 2 * 2)
    pixels = np.load(tmp_path / "out" / "samples.npz")["arr_0"]
    assert pixels.shape == (6, 4, 4, 3) and pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    many = fresh(tmp_path, count=12, out=str(tmp_path / "many"))
    many.begin()
    for picture in (picture for batch in many.batches for picture in batch):
        Image.new("L", (4, 4)).save(many.path(picture))
    many.finish(1.0, 36)
    assert Image.open(tmp_path / "many" / "grid.png").size == (10 * 4 + 9 * 2, 3 * 4 + 2 * 2), "ten in a row at most"


def test_a_plan_names_what_costs(tmp_path: Path) -> None:
    told = fresh(tmp_path).plan()
    assert told.startswith(
        "3 classes × 3 pictures in 3 batches of 4, 9 of them not there yet; autoregressive prior, 12 "
    )
    assert "both guidance halves" not in told and "both guidance halves" in fresh(tmp_path, guidance=2.0).plan()


def test_a_pictures_numbers_are_pinned() -> None:
    """A change of these numbers changes the pictures of every seed."""
    found = uniforms(3, [Picture(-1, 0), Picture(2, 5)], 3)
    rows = [[0.6572666, 0.0452931, 0.2701735], [0.93234, 0.4130576, 0.253365]]
    assert found.tolist() == [pytest.approx(row, abs=1e-7) for row in rows]


def test_guidance_without_a_condition_is_refused(tmp_path: Path) -> None:
    prior = tiny_prior(condition="none")
    config = SampleConfig(prior="", tokenizer="", out=str(tmp_path), guidance=2.0)
    with pytest.raises(UserError, match="guidance=2 needs classes, and there are none: leave it at 1"):
        Sampling(config, prior, Classes(prior, None))
    assert Sampling(replace(config, guidance=1.0), prior, Classes(prior, None)).labels == [-1]


def test_folders_are_the_classes_names_where_file_systems_take_them():
    names = ["Smileys & Emotion", "a/b", "a:b", "codes", "..", ""]
    found = folder_names(range(-1, 6), names)
    assert found == ["all", "Smileys & Emotion", "class-1", "class-2", "class-3", "__", "class-5"]


def test_pictures_of_no_class_from_a_prior_with_classes_and_from_one_without(
    coded: Coded, trained: Trained, tmp_path: Path
):
    assert sample(sampling(coded, trained.prior, classes=["none"], count=3, out=str(tmp_path / "with"))) == 0
    assert sorted(pictures(tmp_path / "with" / "all")) == ["00000.png", "00001.png", "00002.png"]
    prior = tiny_prior(condition="none")
    assert prior.vocabulary.classes == ()
    assert prior.vocabulary.class_tokens(torch.tensor([0, 2, -1])).tolist() == [prior.vocabulary.null] * 3
    prior.save_pretrained(tmp_path / "prior")
    with pytest.raises(UserError, match="guidance=2 needs classes"):
        Sampling(sampling(coded, str(tmp_path / "prior")), prior, Classes(prior, None))
    assert Sampling(sampling(coded, str(tmp_path / "prior"), guidance=1.0), prior, Classes(prior, None)).labels == [-1]
