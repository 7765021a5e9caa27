"""Nothing that is given away names a folder of the machine that it was made on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data.shards.identity import Identity
from data.shards.loading import load_index
from launch.command.cli import parse
from launch.config import RunConfig
from launch.reporting import page
from stage1_tokenizer.config.measuring import EvaluateConfig as TokenizerEvaluateConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer
from stage1_tokenizer.measuring.single_pictures import reconstruct_files
from stage1_tokenizer.release import ReleaseConfig as TokenizerReleaseConfig
from stage1_tokenizer.release import release as release_tokenizer
from stage1_tokenizer.train import train as train_tokenizer
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.config.sampling import InpaintConfig, SampleConfig
from stage2_prior.config.training import CodeDataConfig, PriorModelConfig, PriorTrainConfig
from stage2_prior.encode import encode
from stage2_prior.measuring.evaluation import evaluate
from stage2_prior.release import ReleaseConfig, release
from stage2_prior.sample import sample
from stage2_prior.sampling.holes import Given
from stage2_prior.train import train
from tests.stage1_tokenizer import tiny
from tests.stage2_prior.tiny import write_pictures

SECRET = "alex-at-work"
"""The folder that must not be named."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages from pictures to reports, in a folder with a telling name; what is in `out` may be given away."""
    place = tmp_path_factory.mktemp("made") / SECRET / "work"
    out = place / "out"
    for name, seed in (("pictures", 0), ("held_out", 1)):
        write_pictures(place / "shards" / name, shards=2, each=9, seed=seed)
    pictures, held_out = (str(place / "shards" / name / "index.json") for name in ("pictures", "held_out"))
    run = place / "tokenizer-run"
    options = tiny.arguments(run, data__index=pictures, data__held_out=held_out, steps=4)
    assert train_tokenizer(parse(TokenizerTrainConfig, options, prog="test")) == 0
    figures = out / "tokenizer.json"
    measured = {"features": "vgg16", "lpips": False, "save_reference": str(out / "statistics.npz")}
    evaluate_tokenizer(TokenizerEvaluateConfig(tokenizer=str(run), data=held_out, out=str(figures), **measured))
    common = {"run": str(run), "licence": "mit"}
    release_tokenizer(TokenizerReleaseConfig(out=str(out / "own"), **common))
    release_tokenizer(
        TokenizerReleaseConfig(out=str(out / "tokenizer"), metrics=str(figures), discriminator=True, **common)
    )
    tokenizer = str(out / "tokenizer")
    for name, index in (("codes", pictures), ("held_out_codes", held_out)):
        assert encode(EncodeConfig(tokenizer=tokenizer, data=index, out=str(out / name))) == 0
    codes, held_out_codes = (str(out / name / "index.json") for name in ("codes", "held_out_codes"))
    config = PriorTrainConfig(
        run=RunConfig(folder=str(place / "prior-run"), trackers=[], log_every=1),
        data=CodeDataConfig(index=codes, held_out=held_out_codes, batch_size=4),
        tokenizer=tokenizer,
        model=PriorModelConfig(layers=1, width=16, heads=2),
        steps=3,
    )
    assert train(config) == 0
    sampling = SampleConfig(prior=str(place / "prior-run"), tokenizer=tokenizer, out=str(out / "samples"), count=4)
    assert sample(sampling) == 0
    shown = place / "given"
    shown.mkdir()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(shown / "one.png")
    both = {"prior": sampling.prior, "tokenizer": tokenizer, "given": str(shown)}
    assert (
        sample(
            InpaintConfig(**both, out=str(out / "inpainted"), count=1),
            lambda prior, tok: Given(InpaintConfig(**both, out=""), prior, tok),
        )
        == 0
    )
    evaluate(
        EvaluateConfig(
            prior=sampling.prior,
            codes=held_out_codes,
            samples=sampling.out,
            data=pictures,
            held_out=held_out,
            reference=held_out,
            save_reference=str(out / "more-statistics.npz"),
            out=str(out / "prior.json"),
        )
    )
    from_run = {"prior": sampling.prior, "licence": "mit", "tokenizer": tokenizer}
    release(ReleaseConfig(**from_run, out=str(out / "own-prior")))
    release(ReleaseConfig(**from_run, out=str(out / "prior"), metrics=str(out / "prior.json")))
    reconstruct_files(
        [str(shown / "one.png")],
        tokenizer,
        str(out / "single"),
        trained_size=True,
        lpips=False,
        tile=0,
        max_pixels=10**6,
    )
    for name in ("tokenizer-run", "prior-run"):
        file = place / name / "run.json"
        origin = json.loads(file.read_text())
        words = ["train.py", "--data.index", pictures, f"--run.folder={place}/{name}"]
        file.write_text(json.dumps(origin | {"argv": words}))
    page.write(place, out / "report.html")
    for name in ("tokenizer-run", "prior-run"):
        page.write(place / name, out / f"{name}.html")
    return place


def texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """What can be read in the files of a folder: their bytes as text, and texts in `.npz` files."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path, path.read_bytes().decode("utf-8", "replace")
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                yield path, " ".join(str(array) for array in arrays.values() if array.dtype.kind == "U")


def test_no_file_names_the_folder(made: Path) -> None:
    found = [path for path, text in texts(made / "out") if SECRET in text or str(made.parent) in text]
    assert not found
    kinds = {path.suffix for path, _ in texts(made / "out")}
    assert {".json", ".md", ".html", ".safetensors", ".npz", ".tar", ".png", ".py"} <= kinds, "the test looks at all"


def test_what_is_given_away_says_which_data_it_is_of(made: Path) -> None:
    held_out = Identity.of(load_index(made / "shards" / "held_out" / "index.json")).brief()
    codes = Identity.of(load_index(made / "out" / "codes" / "index.json")).brief()
    pictures = Identity.of(load_index(made / "shards" / "pictures" / "index.json")).brief()
    assert json.loads((made / "out" / "tokenizer.json").read_text())["measured"]["data"] == held_out
    for name in ("tokenizer", "own"):
        assert json.loads((made / "out" / name / "metrics.json").read_text())["measured"]["data"] == held_out
        card = (made / "out" / name / "README.md").read_text()
        assert "Trained on halves, 18 pictures" in card and pictures["digest"] in card and "on `halves`" in card
        (result, *_) = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"]
        assert result["dataset"] == {"type": "halves", "name": "halves"}
    for name in ("prior", "own-prior"):
        data = json.loads((made / "out" / name / "prior.json").read_text())["data"]
        assert data == codes and data["pictures"] == pictures
    assert json.loads((made / "out" / "prior.json").read_text())["measured"]["codes"]["set"]["pictures"] == held_out


def test_the_card_of_a_run_whose_data_moved_still_names_them(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "tokenizer-run", tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(SECRET, "gone"))
    release_tokenizer(TokenizerReleaseConfig(run=str(tmp_path / "run"), out=str(tmp_path / "out"), licence="mit"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Trained on halves, 18 pictures" in card and "could not be read" in card
    assert "gone" not in card + (tmp_path / "out" / "metrics.json").read_text()


def test_results_from_before_lose_their_paths_in_a_release(made: Path, tmp_path: Path) -> None:
    figures = json.loads((made / "out" / "tokenizer.json").read_text())
    figures["measured"]["data"] = f"/home/{SECRET}/shards/held_out.json"
    figures["measured"]["reference"]["set"] = f"../{SECRET}/shards/held_out.json"
    (tmp_path / "old.json").write_text(json.dumps(figures))
    options = {"run": str(made / "tokenizer-run"), "licence": "mit", "metrics": str(tmp_path / "old.json")}
    release_tokenizer(TokenizerReleaseConfig(out=str(tmp_path / "out"), **options))
    assert not [path for path, text in texts(tmp_path / "out") if SECRET in text]
    assert "`held_out" in (tmp_path / "out" / "README.md").read_text()


def test_samples_are_of_one_prior_and_of_given_pixels(made: Path) -> None:
    described = json.loads((made / "out" / "samples" / "samples.json").read_text())
    assert len(described["prior_weights"]) == 64
    inpainted = json.loads((made / "out" / "inpainted" / "samples.json").read_text())
    assert set(inpainted["given"]) == {"pictures", "hole"} and "given" not in inpainted["settings"]
