"""Figures of videos: beside a plain loop, distances, the evaluation, files, and what decides comparisons."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures.transforms import to_float, to_uint8
from data.reading.stream import every_sample
from data.videos.batches import VideoBatch
from data.videos.shown import film
from launch.command.cli import UserError
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.losses.lpips import LPIPS, load_lpips
from stage1_tokenizer.measuring import video_features
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer
from stage1_tokenizer.measuring.results import report
from stage1_tokenizer.measuring.scores import psnr, ssim
from stage1_tokenizer.measuring.single_pictures import reconstruct_files, table
from stage1_tokenizer.measuring.video_features import VideoVgg16, blob_id, load_video_network
from stage1_tokenizer.measuring.video_metrics import difference_psnr, flicker
from stage1_tokenizer.measuring.video_scores import measure_videos
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage2_prior.videos import CODES, FRAMES, GRID, RATE, SIZE, TRANSFORM, clip, write_tokenizer, write_videos

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    return load_lpips()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A set of 6 clips and an untrained tokenizer."""
    place = tmp_path_factory.mktemp("videos")
    return write_videos(place / "set", shards=1, each=6), write_tokenizer(place / "tokenizer")


def test_figures_are_those_of_a_plain_loop_over_frames(made: tuple[str, str], lpips: LPIPS) -> None:
    tokenizer = Tokenizer.from_pretrained(made[1])
    (batch,) = every_sample(made[0], TRANSFORM, batch_size=6)
    rows = [slice(0, 4), slice(4, 6)]
    parts = [VideoBatch(0, batch.pixels_BCTHW[one], batch.label_B[one], batch.keys[one]) for one in rows]
    found = measure_videos(tokenizer, parts, lpips, device=CPU, rows=4)
    y_BCTHW = to_uint8(tokenizer.reconstruct(to_float(batch.pixels_BCTHW))[0])
    frames = [(clip, t) for clip in range(6) for t in range(FRAMES)]
    pairs = [(batch.pixels_BCTHW[clip, :, t][None], y_BCTHW[clip, :, t][None]) for clip, t in frames]
    for name, of in (
        ("psnr", lambda x, y: psnr(x, y)),
        ("ssim", lambda x, y: ssim(x, y)),
        ("lpips", lambda x, y: lpips(to_float(y), to_float(x))),
    ):
        assert found[name] == pytest.approx(np.mean([float(of(x, y)) for x, y in pairs]), abs=2e-4), name
    errors = []
    for x_CTHW, y_CTHW in zip(batch.pixels_BCTHW.double(), y_BCTHW.double(), strict=True):
        changes = [(a[:, 1:] - a[:, :-1]) for a in (x_CTHW, y_CTHW)]
        errors.append(float(10 * torch.log10(255**2 / (changes[0] - changes[1]).square().mean())))
    assert found["difference_psnr"] == pytest.approx(np.mean(errors), abs=1e-3)
    bits = np.log2(CODES) * np.prod(GRID)
    assert found["bits_per_pixel"] == pytest.approx(bits / (FRAMES * SIZE**2))
    assert found["bits_per_second"] == pytest.approx(bits / FRAMES * RATE)
    assert found["samples"] == 6 and found["frames"] == 6 * FRAMES and 0 < found["codebook_usage"] <= 1


def test_flicker_and_changes_see_what_single_frames_hide() -> None:
    still = torch.full((1, 1, 6, 8, 8), 100, dtype=torch.uint8)
    fade = still + torch.arange(6, dtype=torch.uint8)[:, None, None] * 10
    noisy = still.clone()
    noisy[:, :, ::2] += 20
    assert float(flicker(still)) == float(flicker(fade)) == 0.0 and float(flicker(noisy)) == pytest.approx(40 / 255)
    assert float(difference_psnr(still, still + 50)) == 100.0, "a constant error doesn't change over time"
    assert float(difference_psnr(still, noisy)) == pytest.approx(float(10 * np.log10(255**2 / 400)))


def test_features_know_order_and_a_foreign_file_is_no_fvd(
    lpips: LPIPS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    x_BCTHW = torch.from_numpy(np.stack([clip(0, 1, random), clip(1, 0, random)]))
    network = VideoVgg16(lpips)
    with torch.no_grad():
        forwards, backwards = network(x_BCTHW)["pool"], network(x_BCTHW.flip(2))["pool"]
    assert torch.allclose(forwards[:, :512], backwards[:, :512], atol=1e-5), "the same frames"
    assert not torch.allclose(forwards[:, 512:], backwards[:, 512:], atol=1e-3), "other changes"
    with pytest.raises(UserError, match="clips of 1 frames of 16x16 pixels are too small for vgg16"):
        network(x_BCTHW[:, :, :1])
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a", "git hash-object"
    file = tmp_path / "i3d_torchscript.pt"
    file.write_bytes(b"other weights")
    with pytest.raises(UserError, match="is not the file that fvd_styleganv is measured with"):
        load_video_network("i3d", None, i3d_weights=str(file))

    class Stand(torch.nn.Module):
        def forward(
            self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
        ) -> torch.Tensor:
            return x.flatten(1)[:, :400]

    torch.jit.save(torch.jit.script(Stand()), str(file))
    monkeypatch.setattr(video_features, "STYLEGANV", blob_id(file.read_bytes()))
    network = load_video_network("i3d", None, i3d_weights=str(file))
    assert network is not None and network.names["frechet"] == "fvd_styleganv"
    assert network(x_BCTHW.repeat(1, 1, 2, 1, 1))["pool"].shape == (2, 400)
    with pytest.raises(UserError, match=r"clips of 5 frames .* need 10 frames"):
        network(x_BCTHW)


def test_an_evaluation_and_what_decides_comparisons(made: tuple[str, str], tmp_path: Path) -> None:
    config = EvaluateConfig(
        tokenizer=made[1],
        data=made[0],
        out=str(tmp_path / "a.json"),
        pictures=str(tmp_path / "strips.png"),
        videos=str(tmp_path / "videos"),
        picture_count=2,
        batch_size=4,
        samples=4,
    )
    result = evaluate_tokenizer(config)
    assert result["frechet_video_vgg16"] > 0 and result["samples"] == 4 and result["frames"] == 4 * FRAMES
    assert not [name for name in result if name.startswith(("fvd", "fid"))]
    assert Image.open(tmp_path / "strips.png").size == (FRAMES * (SIZE + 2) - 2, 4 * SIZE + 2 * 2 + 8)
    assert [path.name for path in sorted((tmp_path / "videos").iterdir())] == ["00.webp", "01.webp"]
    assert Image.open(tmp_path / "videos" / "00.webp").size == (2 * SIZE + 2, SIZE)
    other = copy.deepcopy(result)
    assert report(result, other)[0]
    other["measured"]["metrics"]["flicker"]["hash"] = "0"
    comparable, lines = report(result, other)
    assert comparable and any("not comparable, because their conditions differ: flicker" in line for line in lines)
    other["measured"]["frames"] = 17
    assert not report(result, other)[0]
    for wrong, words in (({"sounds": "x"}, "sounds=x is not supported"), ({"reference": "x"}, "reference is not supp")):
        with pytest.raises(UserError, match=words):
            evaluate_tokenizer(EvaluateConfig(tokenizer=made[1], data=made[0], out=str(tmp_path / "b.json"), **wrong))


def test_files_of_any_size_and_length_are_reconstructed(made: tuple[str, str], tmp_path: Path) -> None:
    x_CTHW = np.random.default_rng(0).integers(0, 256, (1, 6, 18, 22)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    for name, form in (("one", "webp"), ("two", "mp4")):
        (tmp_path / "in" / f"{name}.{form}").write_bytes(film(x_CTHW, RATE, form))  # type: ignore[arg-type]
    how = {"trained_size": False, "lpips": False, "tile": 0}
    rows = reconstruct_files([str(tmp_path / "in")], made[1], str(tmp_path / "out"), max_pixels=10_000, **how)  # type: ignore[arg-type]
    assert [row["frames"] for row in rows] == [6, 6] and (rows[0]["width"], rows[0]["height"]) == (22, 18)
    tokenizer = Tokenizer.from_pretrained(made[1])
    padded = torch.from_numpy(np.pad(x_CTHW, ((0, 0), (0, 1), (0, 2), (0, 2)), mode="edge"))[None]
    y_BCTHW, codes = tokenizer.reconstruct(to_float(padded))
    assert codes is not None and rows[0]["codes"] == codes.numel() == 4 * 5 * 6
    y_TCHW = to_uint8(y_BCTHW)[0, :, :6, :18, :22].transpose(0, 1)
    expected = psnr(y_TCHW, torch.from_numpy(x_CTHW).transpose(0, 1)).mean()
    assert rows[0]["psnr"] == pytest.approx(float(expected))
    assert rows[0]["code_bytes"] == -(-codes.numel() * 5 // 8) and "two.mp4" in table(rows)
    assert Image.open(tmp_path / "out" / "one.webp").size == (2 * 22 + 2, 18)
    assert json.loads((tmp_path / "out" / "reconstructions.json").read_text())["videos"] == rows
    with pytest.raises(UserError, match="has 6 frames of 22×18, more than max_pixels=1000 in all"):
        reconstruct_files([str(tmp_path / "in")], made[1], str(tmp_path / "no"), max_pixels=1000, **how)  # type: ignore[arg-type]
    small = reconstruct_files(
        [str(tmp_path / "in" / "one.webp")],
        made[1],
        str(tmp_path / "s"),
        max_pixels=9000,
        **{**how, "trained_size": True},
    )  # type: ignore[arg-type]
    assert (small[0]["width"], small[0]["frames"]) == (SIZE, 6)
