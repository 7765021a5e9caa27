"""A tokenizer of videos that begins as one of pictures is equal to it on every frame, or on those that have codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from launch.command.cli import UserError, parse
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.config.video_networks import VideoNetConfig
from stage1_tokenizer.tokenizer.codec import Codec
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.train import train
from stage1_tokenizer.training.fine_tuning import check_init, with_model
from stage1_tokenizer.training.inflating import check_inflated, inflated, inflated_model
from tests.stage1_tokenizer.small_backbones import BACKBONES
from tests.stage1_tokenizer.training.test_video_training import OPTIONS
from tests.stage1_tokenizer.video_shards import write_videos


def frames(x_BCTHW: Tensor) -> list[Tensor]:
    return list(x_BCTHW.unbind(2))


def pair(name: str, how: str, video: VideoNetConfig) -> tuple[Codec, Codec]:
    torch.manual_seed(0)
    pictures = Codec(BACKBONES[name]).eval()
    for part in pictures.modules():  # weights that a fresh network doesn't have
        if isinstance(part, torch.nn.GroupNorm):
            torch.nn.init.normal_(part.weight), torch.nn.init.normal_(part.bias)
    videos = Codec(inflated_model(pictures.config, video)).eval()
    videos.load_state_dict(inflated(pictures.weights(), videos.config, how), strict=False)
    return pictures.double(), videos.double()


@pytest.mark.parametrize("factorised", [False, True])
@pytest.mark.parametrize("how", ["last", "central"])
@pytest.mark.parametrize("name", ["conv", "magvit2", "maskgit"])
def test_every_frame_is_what_the_picture_tokenizer_gives(name: str, how: str, factorised: bool) -> None:
    causal = how == "last"
    still = VideoNetConfig(causal=causal, by_frame=True, time_strides=[1, 1], factorised=factorised)
    pictures, videos = pair(name, how, still)
    x_BCTHW = torch.rand(2, 3, 3, 16, 16, dtype=torch.float64) * 2 - 1
    y_BCTHW, codes_Bthw = videos.reconstruct(x_BCTHW)
    for number, frame_BCHW in enumerate(frames(x_BCTHW)):
        y_BCHW, codes_Bhw = pictures.reconstruct(frame_BCHW)
        assert torch.equal(codes_Bthw[:, number], codes_Bhw)
        torch.testing.assert_close(y_BCTHW[:, :, number], y_BCHW, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "how"),
    [("conv", "last"), ("conv", "central"), ("magvit2", "last"), ("magvit2", "central"), ("maskgit", "last")],
)
def test_with_strides_of_time_so_are_the_frames_that_have_codes(name: str, how: str) -> None:
    causal = how == "last"
    pictures, videos = pair(
        name, how, VideoNetConfig(causal=causal, by_frame=True, time_strides=[2, 2], factorised=causal)
    )
    count = 9 if causal else 8
    x_BCTHW = torch.rand(1, 3, count, 16, 16, dtype=torch.float64) * 2 - 1
    y_BCTHW, codes_Bthw = videos.reconstruct(x_BCTHW)
    kept = [0, 4, 8] if causal else [3, 7]  # the last of each four
    for number, at in enumerate(kept):
        y_BCHW, codes_Bhw = pictures.reconstruct(x_BCTHW[:, :, at])
        assert torch.equal(codes_Bthw[:, number], codes_Bhw)
        torch.testing.assert_close(y_BCTHW[:, :, at], y_BCHW, atol=1e-6, rtol=0)


def configured(folder: Path, videos: str, init: Path, *words: str) -> TokenizerTrainConfig:
    options = {name: value for name, value in OPTIONS.items() if not name.startswith("model.")}
    options |= {"run.folder": str(folder), "data.index": videos, "init": str(init), "data.transform.channels": "3"}
    options["steps"] = "1"
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    return parse(TokenizerTrainConfig, with_model([*given, *words]), prog="test")


def test_a_run_begins_with_an_inflated_tokenizer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pictures, videos = Tokenizer(BACKBONES["conv"]).eval(), write_videos(tmp_path / "videos", count=4)
    pictures.save_pretrained(tmp_path / "pictures")
    still = ("--inflate", "last", "--model.video.time_strides", "[1,1]")
    config = configured(tmp_path / "run", videos, tmp_path / "pictures", *still, "--optimizer.learning_rate", "1e-12")
    assert config.model == replace(
        pictures.config, spatial_dims=3, video=VideoNetConfig(causal=True, time_strides=[1, 1])
    )
    assert train(config) == 0
    x_BCTHW = torch.rand(2, 3, 2, 16, 16) * 2 - 1
    codes_Bthw = open_run(tmp_path / "run").tokenizer.encode(x_BCTHW)
    assert torch.equal(codes_Bthw[:, 1], pictures.encode(x_BCTHW[:, :, 1]))

    def refused(*words: str) -> str:
        with pytest.raises(UserError) as caught:
            check_init(configured(tmp_path / "other", videos, tmp_path / "pictures", *words))
        return str(caught.value)

    assert "causal=True is not supported with inflate=central" in refused(
        "--inflate", "central", "--model.video.causal", "true"
    )
    central = ("--inflate", "central", "--data.transform.frames", "4")
    assert "by_frame is not supported" in refused(*central, "--model.video.by_frame", "false")
    assert "model.channels=16 differs from 8" in refused("--inflate", "last", "--model.channels", "16")


def test_what_has_no_form_for_videos_is_refused() -> None:
    with pytest.raises(UserError, match=r"init can't be inflated .* backbone=vit"):
        inflated_model(BACKBONES["vit"], VideoNetConfig(causal=True))
    with pytest.raises(UserError, match="needs a tokenizer of pictures"):
        inflated_model(replace(BACKBONES["conv"], spatial_dims=3), VideoNetConfig(causal=True))
    model = inflated_model(BACKBONES["conv"], VideoNetConfig(causal=True, haar=2))
    with pytest.raises(UserError, match="haar=2 is not supported with inflate=last: set it to 1"):
        check_inflated(model, "last")
    pictures = Codec(BACKBONES["conv"])
    other = inflated_model(replace(pictures.config, channels=16), VideoNetConfig(causal=True))
    with pytest.raises(UserError, match=r"encoder.conv_in.weight of the model of videos is \(16, 3, 3, 3, 3\)"):
        inflated(pictures.weights(), other, "last")
