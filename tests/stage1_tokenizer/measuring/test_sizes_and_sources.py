"""Distances compare pictures of one size; any set of pictures can be evaluated; nothing is left out without a word."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from data.shards.scanning import build_index
from launch.command.cli import UserError
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.measuring import evaluation, results
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer
from stage1_tokenizer.measuring.picture_files import Files
from stage1_tokenizer.measuring.references import measure_set, reference_of, save_reference
from stage1_tokenizer.measuring.single_pictures import reconstruct_files
from stage2_prior.config.evaluation import EvaluateConfig as PriorEvaluateConfig
from stage2_prior.measuring import evaluation as of_priors
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.measuring.test_references import TRANSFORM, Alone, Means

COUNT = 12


def waves(number: int, height: int, width: int) -> Image.Image:
    y, x = np.mgrid[:height, :width] / max(height, width)
    value = np.sin(6.3 * (x * (1 + number % 3) + y * (1 + number // 3))) * 100 + 128
    return Image.fromarray(value.astype(np.uint8)).convert("RGB")


def folder_of(place: Path, side: int | tuple[int, int] = 16, count: int = COUNT) -> str:
    height, width = (side, side) if isinstance(side, int) else side
    place.mkdir(parents=True)
    for number in range(count):
        waves(number, height, width).save(place / f"{number:02d}.png")
    return str(place)


def tar_of(path: Path, folder: str, first: int = 0, last: int = COUNT) -> str:
    with tarfile.open(path, "w") as tar:
        for file in sorted(Path(folder).glob("*.png"))[first:last]:
            tar.add(file, file.name)
    return str(path)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Means:
    network = Means()
    for module in (evaluation, of_priors):
        monkeypatch.setattr(module, "load_network", lambda *_, **__: network)
    return network


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def evaluated(tokenizer: str, data: str, tmp_path: Path, name: str = "e", **changes: Any) -> dict[str, Any]:
    out = str(tmp_path / f"{name}.json")
    options = {"lpips": False, "features": "none", "batch_size": 8, **changes}
    return evaluate_tokenizer(EvaluateConfig(tokenizer=tokenizer, data=data, out=out, **options))


def of_samples(samples: str, reference: str, tmp_path: Path, name: str = "p", **changes: Any) -> dict[str, Any]:
    out = str(tmp_path / f"{name}.json")
    return of_priors.evaluate(PriorEvaluateConfig(samples=samples, reference=reference, out=out, **changes))


def test_a_reference_of_another_size_is_refused_or_resized(network: Means, tmp_path: Path) -> None:
    """Of pictures and of statistics; other shapes of one area count too."""
    small, large = folder_of(tmp_path / "small", 16), folder_of(tmp_path / "large", 32)
    flat = folder_of(tmp_path / "flat", (16, 32))
    statistics = str(tmp_path / "large.npz")
    save_reference(Path(statistics), measure_set(large, TRANSFORM, network, Alone(), batch_size=8), network)
    for reference, size in ((large, "32x32"), (flat, "32x16"), (statistics, "32x32")):
        with pytest.raises(UserError, match=rf"is of {size} pixels and what is measured of 16x16.*mean nothing"):
            of_samples(small, reference, tmp_path)
    assert not (tmp_path / "p.json").exists()
    resized = of_samples(small, large, tmp_path, resize=True)
    assert resized["measured"]["reference"]["size"] == [16, 16] == resized["measured"]["measured_set"]["size"]
    assert resized["measured"]["reference"]["transform"]["size"] == 16
    same = of_samples(flat, flat, tmp_path, "flat")
    assert same["frechet"] == pytest.approx(0, abs=1e-6) and same["measured"]["reference"]["size"] == [16, 32]


def test_results_of_different_sizes_are_not_comparable(network: Means, tmp_path: Path) -> None:
    """Enlarged pictures against the same statistics, which don't say their size: a file of before sizes were kept."""
    small, large = folder_of(tmp_path / "small", 16), folder_of(tmp_path / "large", 32)
    reference = measure_set(small, TRANSFORM, network, Alone(), batch_size=8)
    del reference.about["size"]
    save_reference(tmp_path / "old.npz", reference, network)
    ours = of_samples(small, str(tmp_path / "old.npz"), tmp_path, "ours")
    enlarged = of_samples(large, str(tmp_path / "old.npz"), tmp_path, "enlarged")
    assert not results.report(ours, enlarged)[0]
    assert any("measured_set.size: [16, 16] | [32, 32]" in line for line in results.report(ours, enlarged)[1])
    before = json.loads((tmp_path / "ours.json").read_text())
    del before["measured"]["measured_set"]["size"], before["measured"]["precision"]
    (tmp_path / "before.json").write_text(json.dumps(before))
    assert results.report(results.load(str(tmp_path / "before.json")), ours)[0]
    assert not results.report({**ours, "measured": {**ours["measured"], "precision": "tf32"}}, ours)[0]


def test_statistics_without_a_size_are_taken_with_a_word(
    network: Means, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = measure_set(folder_of(tmp_path / "small", 16), TRANSFORM, network, Alone(), batch_size=8)
    del reference.about["size"]
    save_reference(tmp_path / "old.npz", reference, network)
    path = str(tmp_path / "old.npz")
    assert reference_of(path, TRANSFORM, network, Alone(), size=(16, 16), batch_size=8).statistics.count == COUNT
    said = capsys.readouterr().err
    assert "doesn't say the size of its pictures; distances are right only if it is 16x16" in said
    del reference.about["transform"]
    save_reference(tmp_path / "prepared.npz", reference, network)
    values = {**reference.about, "transform": TRANSFORM.to_dict()}
    save_reference(tmp_path / "prepared.npz", type(reference)(reference.statistics, values), network)
    with pytest.raises(UserError, match="is of 16x16 pixels and what is measured of 32x32"):
        reference_of(str(tmp_path / "prepared.npz"), TRANSFORM, network, Alone(), size=(32, 32), batch_size=8)


def test_sizes_that_differ_between_ranks_are_seen(tmp_path: Path) -> None:
    """Each rank's part has one size of its own."""
    folder = folder_of(tmp_path / "mixed", 16, 2)
    waves(3, 8, 8).save(tmp_path / "mixed" / "99.png")

    class OneOfTwo(Alone):
        def gather(self, value: object) -> list[object]:
            return [value, {(8, 8)}] if isinstance(value, set) else [value]

    alone = folder_of(tmp_path / "alone", 16, 2)
    with pytest.raises(UserError, match="pictures of several sizes, 8x8 and 16x16"):
        measure_set(alone, TRANSFORM, Means(), OneOfTwo(), batch_size=1)
    with pytest.raises(UserError, match="has another size than the pictures before it, 8x8 instead of 16x16"):
        measure_set(folder, TRANSFORM, Means(), Alone(), batch_size=1)


def test_a_tokenizer_is_evaluated_on_pictures_of_any_form(tokenizer: str, tmp_path: Path) -> None:
    """The same figures and the same hash of the pictures, which are prepared in the same way."""
    folder = folder_of(tmp_path / "set" / "photographs", (20, 28))
    whole = tar_of(tmp_path / "whole.tar", folder)
    (tmp_path / "parts").mkdir()
    for number in range(3):
        tar_of(tmp_path / "parts" / f"part-{number}.tar", folder, 4 * number, 4 * number + 4)
    build_index([whole], base=tmp_path).save(tmp_path / "index.json")
    sources = {
        "index": str(tmp_path / "index.json"),
        "tar": whole,
        "pattern": str(tmp_path / "parts" / "part-*.tar"),
        "braces": str(tmp_path / "parts" / "part-{0..2}.tar"),
        "folder of tars": str(tmp_path / "parts"),
        "folder": folder,
        "folder above": str(tmp_path / "set"),
        "files": f"{folder}/*.png",
    }
    found = {name: evaluated(tokenizer, data, tmp_path, f"of {name}") for name, data in sources.items()}
    assert {result["samples"] for result in found.values()} == {COUNT}
    assert len({result["measured"]["data_hash"] for result in found.values()}) == 1
    assert len({round(result["psnr"], 4) for result in found.values()}) == 1
    for name in ("tar", "folder"):
        assert results.report(found["index"], found[name])[0]
    shown = evaluated(tokenizer, folder, tmp_path, "one", pictures=str(tmp_path / "shown.png"), samples=5)
    assert shown["samples"] == 5 and Image.open(tmp_path / "shown.png").size[0] > 60
    single = evaluated(tokenizer, f"{folder}/00.png", tmp_path, "single")
    assert single["samples"] == 1


def test_a_folder_of_pictures_is_reconstructed_whole(tokenizer: str, tmp_path: Path) -> None:
    """Also in bf16; pictures of one name in several folders get names of their own."""
    for place in ("a", "b"):
        folder_of(tmp_path / "set" / place, 16, 2)
    options: dict[str, Any] = {"trained_size": False, "lpips": False, "tile": 0, "max_pixels": 10_000}
    rows = reconstruct_files([str(tmp_path / "set")], tokenizer, str(tmp_path / "out"), precision="bf16", **options)
    assert len({row["picture"] for row in rows}) == 4 == len(list((tmp_path / "out").glob("*.png")))
    about = json.loads((tmp_path / "out" / "reconstructions.json").read_text())
    assert about["precision"] == "bf16" and about["fingerprint"] == tiny.tokenizer().fingerprint
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="is a folder without pictures"):
        reconstruct_files([str(tmp_path / "none")], tokenizer, str(tmp_path / "other"), **options)


@pytest.mark.parametrize("kind", ["nothing", "several indexes", "empty"])
def test_a_folder_that_could_mean_anything_is_refused(kind: str, tokenizer: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "notes.txt").write_text("no picture")
    if kind == "empty":
        (place / "notes.txt").unlink()
    if kind == "several indexes":
        tar = tar_of(place / "a.tar", folder_of(tmp_path / "pictures"))
        for name in ("train.json", "held_out.json"):
            build_index([tar], base=place).save(place / name)
    message = {"several indexes": r"several indexes, held_out\.json, train\.json: give one of them"}
    with pytest.raises(UserError, match=message.get(kind, "without an index and without tars")):
        evaluated(tokenizer, str(place), tmp_path)


def test_what_is_left_out_is_listed_and_counts(
    tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "photographs", 16, 19)
    (tmp_path / "photographs" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    (tmp_path / "photographs" / "notes.md").write_text("no picture")
    found = evaluated(tokenizer, folder, tmp_path, batch_size=4)
    said = capsys.readouterr().err
    assert found["samples"] == 19 and found["measured"]["left_out"] == 1
    assert "taken: 19 pictures" in said and "torn.jpg" in said and "notes.md" in said
    assert "warning: 1 of 20 pictures (5.0%) are left out" in said
    for number in range(2):
        (tmp_path / "photographs" / f"torn{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    with pytest.raises(UserError, match=r"allow_left_out=0\.1 is exceeded: 3 of 22 pictures"):
        evaluated(tokenizer, folder, tmp_path, "more")
    assert not (tmp_path / "more.json").exists()
    assert evaluated(tokenizer, folder, tmp_path, "allowed", allow_left_out=0.2)["samples"] == 19


def test_damaged_samples_of_shards_are_listed(
    tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "photographs", 16, 20)
    tar = tar_of(tmp_path / "a.tar", folder, 0, 20)
    with tarfile.open(tar, "a") as more:
        info = tarfile.TarInfo("torn.png")
        info.size = 20
        more.addfile(info, io.BytesIO(b"\x89PNG\r\n\x1a\n" + bytes(12)))
    assert evaluated(tokenizer, tar, tmp_path)["samples"] == 20
    said = capsys.readouterr().err
    assert "taken: 20 pictures" in said and "left out of the pictures: 1, damaged" in said


def test_too_few_pictures_for_a_distance_are_named(
    network: Means, tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One picture is no set; of two and three there are some distances, and a word says which are missing."""
    whole, one = folder_of(tmp_path / "whole"), folder_of(tmp_path / "one", 16, 1)
    for samples, reference in ((one, whole), (whole, one)):
        with pytest.raises(UserError, match="holds 1 picture, and a distance is between sets: frechet and kid need 2"):
            of_samples(samples, reference, tmp_path)
    three = of_samples(folder_of(tmp_path / "three", 16, 3), whole, tmp_path)
    assert "frechet" in three and "precision" not in three
    assert "note: not measured: precision, recall; frechet and kid need 2" in capsys.readouterr().err
    single = evaluated(tokenizer, one, tmp_path, features="vgg16")
    assert "psnr" in single and "frechet" not in single
    assert "not measured: frechet, kid, precision, recall" in capsys.readouterr().err


@pytest.mark.parametrize("backbone", ["conv", "magvit2"])
def test_a_picture_of_one_latent_is_encoded_alone_as_in_a_batch(backbone: str) -> None:
    """Where the groups of norms have as many channels as groups, so that each is a single value."""
    from stage1_tokenizer.tokenizer.model import Tokenizer
    from tests.stage1_tokenizer.small_backbones import BACKBONES

    torch.manual_seed(0)
    tokenizer = Tokenizer(BACKBONES[backbone]).eval()
    side = tokenizer.config.stride[0]
    x_BCHW = torch.rand(2, 3, side, side) * 2 - 1
    both_BCHW, codes = tokenizer.reconstruct(x_BCHW)
    alone_BCHW, code = tokenizer.reconstruct(x_BCHW[:1])
    assert codes is not None and code is not None and code.shape[1:] == (1, 1) and torch.equal(code, codes[:1])
    torch.testing.assert_close(alone_BCHW, both_BCHW[:1], atol=1e-3, rtol=1e-3)


def test_files_are_read_as_training_reads_them(tmp_path: Path) -> None:
    deep = np.array([[0x1000, 0x8000], [0xFF00, 0x00FF]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "0.png")
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    clear.save(tmp_path / "1.png", pnginfo=large_text())
    turned = waves(0, 2, 2).getexif()
    turned[0x0112] = 3  # upside down
    marked = Image.new("RGB", (16, 16), "white")
    marked.paste("black", (0, 0, 16, 8))
    marked.save(tmp_path / "marked.jpg", exif=turned, quality=100)
    files = Files(tmp_path, ["0.png", "1.png"])
    assert files.read(0, None).tolist() == [[[0x10, 0x80], [0xFF, 0]]] * 3
    assert files.read(1, None).tolist() == [[[255, 255]] * 2] * 3
    assert Files(tmp_path, ["marked.jpg"]).read(0, None)[:, 15].max() < 8


def large_text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("prompt", "x" * (1 << 21), zip=True)
    return text
