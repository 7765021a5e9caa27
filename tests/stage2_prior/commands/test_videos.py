"""Stage two for videos, command by command: encode, train, sample, continue, evaluate, release."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures.transforms import to_float, to_uint8
from data.reading.stream import every_code, every_sample
from data.shards.loading import load_index
from data.videos.shown import film, frames_of
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage2_prior.codes.axes import frames_of_codes, touched
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.config.model import PriorModelConfig, TextConfig
from stage2_prior.config.sampling import InpaintConfig, SampleConfig
from stage2_prior.encode import encode
from stage2_prior.inpaint import inpaint
from stage2_prior.measuring.attributes import Classifiers, word_of
from stage2_prior.measuring.evaluation import evaluate
from stage2_prior.priors.build import load_prior
from stage2_prior.release import ReleaseConfig, release
from stage2_prior.sample import sample
from stage2_prior.train import train
from stage2_prior.web.videos import VideoDemo, page
from tests.stage2_prior.commands.test_train import settings
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.videos import (
    ATTRIBUTES,
    CLASSES,
    CODES,
    FRAMES,
    GRID,
    RATE,
    SIZE,
    TRANSFORM,
    caption,
    clip,
    write_tokenizer,
    write_videos,
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Coded:
    place = tmp_path_factory.mktemp("videos")
    train_set = write_videos(place / "train", shards=2, each=16)
    held_out = write_videos(place / "held_out", shards=1, each=8, seed=1)
    tokenizer = write_tokenizer(place / "tokenizer")
    for name, index in (("codes", train_set), ("held", held_out)):
        assert encode(EncodeConfig(tokenizer=tokenizer, data=index, out=str(place / name), verify=2)) == 0
    indexes = (str(place / name / "index.json") for name in ("codes", "held"))
    return Coded(train_set, held_out, tokenizer, *indexes)


def model(kind: str, **changes: Any) -> PriorModelConfig:
    return PriorModelConfig(kind=kind, layers=1, width=16, heads=2, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(videos: Coded, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("prior") / "run"
    text = model("autoregressive", condition="text", text=TextConfig(tokens=24, layers=1))
    assert train(settings(videos, folder, model=text, steps=2)) == 0
    return str(folder)


@pytest.fixture(scope="module")
def drawn(videos: Coded, run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("drawn")
    prompts = place / "prompts.txt"
    prompts.write_text("".join(f"{caption(label, way)}\n" for label in (0, 1) for way in (0, 1)))
    out = place / "samples"
    config = SampleConfig(prior=run, tokenizer=videos.tokenizer, out=str(out), count=2, prompts=str(prompts), mp4=True)
    assert sample(config) == 0
    return out


def codes_in(out: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(out / "codes" / "000000.npy").astype(np.int64))


def test_codes_are_those_of_the_prepared_clips(videos: Coded) -> None:
    index = load_index(videos.held_out_codes)
    source = CodeSource.of_index(index, "")
    assert source.kind == "videos" and source.shape == source.grid == GRID
    clips, codes = next(every_sample(videos.held_out, TRANSFORM, batch_size=8)), next(every_code(index, batch_size=8))
    tokenizer = Tokenizer.from_pretrained(videos.tokenizer)
    assert codes.keys == clips.keys and codes.captions == clips.captions and codes.captions[0] == caption(0, 0)
    assert torch.equal(codes.idx_Bhw, tokenizer.encode(to_float(clips.pixels_BCTHW)))
    strip = Image.open(Path(videos.held_out_codes).parent / "verify.png")
    assert strip.size == (FRAMES * (SIZE + 2) - 2, 2 * SIZE), "strips of a clip and its decoded codes"


def test_samples_move_and_are_what_the_codes_decode_to(videos: Coded, drawn: Path) -> None:
    described = json.loads((drawn / "samples.json").read_text())
    assert described["videos"] == 8 and described["complete"] and described["grid"] == list(GRID)
    y_BCTHW = to_uint8(Tokenizer.from_pretrained(videos.tokenizer).decode(codes_in(drawn))).numpy()
    for place in range(8):
        one = described["classes"][place % 4]
        file = drawn / one["folder"] / f"{place // 4:05d}.webp"
        assert np.array_equal(frames_of(file.read_bytes(), 1), y_BCTHW[place])
        assert Image.open(file.with_suffix(".png")).size == (FRAMES * (SIZE + 2) - 2, SIZE)
        assert file.with_suffix(".mp4").stat().st_size
    grid = Image.open(drawn / "grid.webp")
    assert grid.size == (2 * 18 - 2, 4 * 18 - 2) and Image.open(drawn / "grid.png").size == (2 * 90 - 2, 4 * 18 - 2)
    page_CTHW = frames_of((drawn / "grid.webp").read_bytes(), 1)
    assert np.array_equal(page_CTHW[..., 18:34, 18:34], y_BCTHW[5]), "second row, second column"


def test_given_frames_stay_and_the_rest_goes_on(videos: Coded, run: str, tmp_path: Path) -> None:
    file = tmp_path / "one.webp"
    x_CTHW = clip(1, 0, np.random.default_rng(3))
    file.write_bytes(film(x_CTHW, RATE))
    config = InpaintConfig(
        prior=run, tokenizer=videos.tokenizer, out=str(tmp_path / "out"), given=str(file), frames=3, count=2, prompt=""
    )
    assert inpaint(config) == 0
    tokenizer = Tokenizer.from_pretrained(videos.tokenizer)
    first_BCTHW = to_float(torch.from_numpy(x_CTHW))[None, :, :3]
    found = codes_in(tmp_path / "out")
    assert torch.equal(found[:, :2], tokenizer.encode(first_BCTHW).expand(2, -1, -1, -1)), "1 + 2 frames are 2 codes"
    hole_CTHW = frames_of((tmp_path / "out" / "0000 one" / "hole.webp").read_bytes(), 1)
    assert np.array_equal(hole_CTHW[:, :3], x_CTHW[:, :3]) and (hole_CTHW[:, 3:] == 128).all()
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["frames_kept"] == 3
    for wrong, words in (
        ({"keep": "ends", "frames": 2}, "keeps codes after the hole.*from start to end.*set keep to start"),
        ({"frames": 5}, "frames=5 leaves no code|frames=5 leaves all codes"),
        ({"mask": "m.png", "frames": None}, "mask=m.png is for pictures"),
    ):
        with pytest.raises(UserError, match=words):
            inpaint(replace(config, out=str(tmp_path / "wrong"), **wrong))  # type: ignore[arg-type]


def test_a_masked_prior_fills_in_between(videos: Coded, tmp_path: Path) -> None:
    assert train(settings(videos, tmp_path / "run", model=model("masked", condition="none"), steps=1)) == 0
    own: dict[str, Any] = {"prior": str(tmp_path / "run"), "tokenizer": videos.tokenizer, "out": str(tmp_path / "out")}
    config = InpaintConfig(
        **own, given=videos.held_out, limit=1, count=1, keep="ends", frames=2, order="halton", steps=2
    )
    assert inpaint(config) == 0
    batch = next(every_sample(videos.held_out, TRANSFORM, batch_size=1, limit=1))
    codes = Tokenizer.from_pretrained(videos.tokenizer).encode(to_float(batch.pixels_BCTHW))
    assert torch.equal(codes_in(tmp_path / "out")[:, ::2], codes[:, ::2]), "the codes of frames 1 and 4 to 5 stay"


def test_windows_slide_beyond_the_trained_length(videos: Coded, run: str, drawn: Path, tmp_path: Path) -> None:
    prompts = str(drawn.parent / "prompts.txt")
    own: dict[str, Any] = {"prior": run, "tokenizer": videos.tokenizer, "out": str(tmp_path / "out"), "count": 1}
    assert sample(SampleConfig(**own, prompts=prompts, windows=3, overlap=1)) == 0
    found, tokenizer = codes_in(tmp_path / "out"), Tokenizer.from_pretrained(videos.tokenizer)
    assert found.shape == (4, 3, *GRID) and torch.equal(found[:, 0], codes_in(drawn)[:4]), "the first is that alone"
    last_BCTHW = tokenizer.decode(found[:, 0])[:, :, -1:]
    assert torch.equal(tokenizer.encode(last_BCTHW), found[:, 1, :1]), "the second begins with its last frame"
    folder = json.loads((tmp_path / "out" / "samples.json").read_text())["classes"][2]["folder"]
    whole_CTHW = frames_of((tmp_path / "out" / folder / "00000.webp").read_bytes(), 1)
    assert np.array_equal(whole_CTHW[:, 9:], to_uint8(tokenizer.decode(found[2:3, 2]))[0, :, 1:].numpy())
    with pytest.raises(UserError, match="overlap=2 frames don't end where a code ends: set it to 1, 3"):
        sample(SampleConfig(**own | {"out": str(tmp_path / "wrong")}, windows=2, overlap=2))


def test_samples_and_predictions_are_held_to_their_texts(videos: Coded, run: str, drawn: Path, tmp_path: Path) -> None:
    own: dict[str, Any] = {"prior": run, "tokenizer": videos.tokenizer, "out": str(tmp_path / "on"), "prompt": ""}
    assert inpaint(InpaintConfig(**own, given=videos.held_out, limit=2, frames=3, count=1)) == 0
    config = EvaluateConfig(
        prior=run,
        out=str(tmp_path / "figures.json"),
        codes=videos.held_out_codes,
        samples=str(drawn),
        predictions=str(tmp_path / "on"),
        data=videos.pictures,
        held_out=videos.held_out,
        reference=videos.held_out,
    )
    figures = evaluate(config)
    assert figures["frechet_video_vgg16"] > 0 and figures["measured"]["measured_set"]["pictures"] == 8
    assert figures["real_size_accuracy"] == figures["real_way_accuracy"] == 1.0 and figures["real_samples"] == 8
    assert 0 <= figures["size_agreement"] <= 1 and set(figures["way_agreement_by_word"]) == {"left", "right"}
    assert figures["prediction"]["real_way_accuracy"] == 1.0 and figures["prediction"]["frames_kept"] == 3
    assert figures["prediction"]["samples"] == 2 and figures["samples"] == 8


def test_classifiers_know_shape_and_way_and_ask_every_frame() -> None:
    random = np.random.default_rng(0)
    kinds = [(label, way) for label in (0, 1) for way in (0, 1)] * 6
    classifiers = Classifiers(
        ATTRIBUTES, [caption(*kind) for kind in kinds], np.stack([clip(*kind, random) for kind in kinds])
    )
    x_BCTHW = np.stack([clip(0, 0, random), clip(1, 1, random), clip(1, 0, random)])
    said = [caption(0, 0), caption(1, 1), caption(1, 1)]
    figures = classifiers.figures(said, x_BCTHW)
    assert figures["size_agreement"] == 1.0 and figures["way_agreement"] == pytest.approx(2 / 3)
    x_BCTHW[1, :, 2] = x_BCTHW[0, :, 2]
    assert classifiers.figures(said, x_BCTHW)["size_agreement"] == pytest.approx(2 / 3), "one wrong frame is enough"
    assert (
        word_of("It goes up and left", ["up", "up and left", "left"]) == 1
        and word_of("left, right", ["left", "right"]) < 0
    )


def test_frames_belong_to_codes() -> None:
    assert frames_of_codes(17, 5) == [1, 4, 4, 4, 4] and frames_of_codes(9, 3) == [1, 4, 4]
    assert frames_of_codes(16, 4) == [4] * 4 and frames_of_codes(1, 1) == [1]
    with pytest.raises(ValueError, match="7 frames don't become 3 codes"):
        frames_of_codes(7, 3)
    hole_THW = torch.zeros(9, 8, 8, dtype=torch.bool)
    hole_THW[4, 5, 7] = True
    assert touched(hole_THW, (3, 2, 2)).nonzero().tolist() == [[1, 1, 1]]


def test_a_release_tells_of_videos(videos: Coded, run: str, tmp_path: Path) -> None:
    out = release(ReleaseConfig(prior=run, out=str(tmp_path / "prior"), tokenizer=videos.tokenizer, licence="mit"))
    card = (out / "README.md").read_text()
    assert f"3×4×4 codes out of {CODES}" in card and "video-generation" in card and CLASSES


def test_what_the_buttons_of_the_demo_do(videos: Coded, run: str, tmp_path: Path) -> None:
    demo = VideoDemo(Tokenizer.from_pretrained(videos.tokenizer), load_prior(run))
    file = tmp_path / "one.webp"
    file.write_bytes(film(clip(1, 1, np.random.default_rng(3)), RATE))
    given, back, told = demo.reconstruct(str(file))
    assert Image.open(given).n_frames == Image.open(back).n_frames == FRAMES and Image.open(given).size == (192, 192)  # type: ignore[attr-defined]
    assert "**48 codes**" in told and "of changes" in told
    drawn = demo.sample(caption(0, 0), 2, 2.0, 1.0, 0, str(file), 3)
    assert len(drawn) == 2 and all(Image.open(one).n_frames == FRAMES for one in drawn)  # type: ignore[attr-defined]
    labels = {getattr(component, "label", None) for component in page(demo, "squares", str(file)).blocks.values()}
    assert {"reconstruction", "samples", "frames that stay"} <= labels
