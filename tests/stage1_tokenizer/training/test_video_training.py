"""A run on videos and pictures: two discriminators, resumed to the bit, the same on two ranks, begun by inflation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from launch.command.cli import parse
from launch.run.metrics import read
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.train import train
from stage1_tokenizer.training.cost import dry_run
from stage1_tokenizer.training.loop import train_step as original
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.training.test_several import checkpoint
from tests.stage1_tokenizer.video_shards import write_videos

OPTIONS = {
    "run.trackers": "[]",
    "run.log_every": "1",
    "run.save_every": "2",
    "data.batch_size": "4",
    "data.transform.kind": "videos",
    "data.transform.size": "16",
    "data.transform.frames": "5",
    "data.transform.channels": "1",
    "data.transform.fit": "stretch",
    "model.spatial_dims": "3",
    "model.video.causal": "true",
    "model.video.time_strides": "[2]",
    "model.in_channels": "1",
    "model.channels": "8",
    "model.channel_multipliers": "[1, 1]",
    "model.res_blocks": "1",
    "model.attention": "false",
    "model.z_channels": "8",
    "model.quantizer.codebook_size": "16",
    "model.quantizer.code_dim": "4",
    "model.quantizer.start": "batch",
    "loss.perceptual.weight": "0",
    "loss.terms": '{"frame_difference": 0.5}',
    "loss.adversarial.channels": "4",
    "loss.adversarial.layers": "1",
    "loss.discriminators": '[{"per_frame": true, "channels": 4, "layers": 2, "penalty": 1, "penalty_every": 2}]',
    "optimizer.ema_decay": "0.9",
    "evaluate_samples": "5",
    "steps": "4",
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_videos(tmp_path_factory.mktemp("videos"))


def configured(folder: Path, videos: str, **changes: Any) -> TokenizerTrainConfig:
    options = {**OPTIONS, "run.folder": str(folder), "data.index": videos, "data.held_out": videos}
    options |= {name.replace("__", "."): str(value) for name, value in changes.items()}
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    return parse(TokenizerTrainConfig, words, prog="test")


MIXED = {"data__mixture": f'{{"{tiny.ROOT / tiny.TRAIN}": 1.0}}'}


def test_videos_and_pictures_resume_with_the_same_bits(
    videos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: dict[int, int] = {}

    def watched(config: Any, trained: Any, x_BCTHW: Any, step: int, **beside: Any) -> Any:
        frames[step] = x_BCTHW.shape[2]
        return original(config, trained, x_BCTHW, step, **beside)

    monkeypatch.setattr("stage1_tokenizer.training.loop.train_step", watched)
    assert train(configured(tmp_path / "one", videos, **MIXED, steps=6)) == 0
    assert set(frames.values()) == {1, 5}, "steps of pictures and of videos"
    first = dict(frames)

    def killed(config: Any, trained: Any, x_BCTHW: Any, step: int, **beside: Any) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return watched(config, trained, x_BCTHW, step, **beside)

    with monkeypatch.context() as patch:
        patch.setattr("stage1_tokenizer.training.loop.train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(configured(tmp_path / "two", videos, **MIXED, steps=6))
    assert train(configured(tmp_path / "two", videos, **MIXED, steps=6)) == 0
    assert frames == first
    one, two = checkpoint(tmp_path / "one", 6), checkpoint(tmp_path / "two", 6)
    assert {"tokenizer", "ema", "discriminator", "discriminator_2"} <= one.keys() == two.keys()
    for name in ("tokenizer", "ema", "discriminator", "discriminator_2"):
        assert all(torch.equal(tensor, two[name][key]) for key, tensor in one[name].items()), name
    lines = read(tmp_path / "one" / "metrics.jsonl")
    last = [line for line in lines if line["kind"] == "train"][-1]
    assert {
        "loss/rec",
        "loss/frame_difference",
        "loss/discriminator",
        "loss/discriminator_2",
        "gan/weight",
    } <= last.keys()
    (evaluated,) = [line for line in lines if line["kind"] == "eval"]
    assert {"eval/psnr", "eval/difference_psnr", "eval/flicker"} <= evaluated.keys() and evaluated["eval/samples"] == 5
    assert (tmp_path / "one" / "videos" / "step-000000006.png").is_file()


def _train(config: TokenizerTrainConfig) -> int:
    return train(config)


def test_two_processes_compute_what_one_does(videos: str, tmp_path: Path) -> None:
    small = '[{"per_frame": true, "channels": 4, "layers": 1}]'
    changes = {**MIXED, "data__transform__size": 8, "loss__discriminators": small, "evaluate_samples": 3}
    changes |= {"model__channels": 64, "steps": 3}  # of 64 channels: see test_train.py
    for ranks in (1, 2):
        config = configured(tmp_path / str(ranks), videos, **changes)
        assert run_distributed_test(_train, ranks, [config]) == [0] * ranks
    one, two = (open_run(tmp_path / name).tokenizer.weights() for name in ("1", "2"))
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__transform__frames": 4}, r"frames=4 is not 1 \+ a multiple of 2, the model's stride: set it to 3"),
        ({"data__transform__size": 15}, "size=15 is not a multiple of 2"),
        ({"model__in_channels": 3}, "in_channels=3 differs from data.transform.channels=1"),
        ({"loss__adversarial__discriminator": "stylegan"}, "stylegan needs 2 axes"),
        ({"model__video__haar": 2}, "adaptive=true needs a decoder that ends with one convolution"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str, videos: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message):
        configured(tmp_path, videos, **changes)


def test_a_dry_run_counts_videos(videos: str) -> None:
    text = dry_run(configured(Path("unused"), videos))
    assert "a video:" in text and "a step: 4 videos," in text
