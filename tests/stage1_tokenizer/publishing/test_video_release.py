"""A released tokenizer of videos: it loads with plain transformers, and its card moves."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from stage1_tokenizer.release import ReleaseConfig, release
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.train import train
from tests.stage1_tokenizer.training.test_video_training import configured
from tests.stage2_prior.videos import RATE, write_videos


def test_a_release_moves_and_says_what_it_is(tmp_path: Path) -> None:
    data = write_videos(tmp_path / "data", shards=1, each=6)
    config = configured(tmp_path / "run", data, steps=1, data__transform__frame_rate=RATE, evaluate_features="none")
    assert train(config) == 0
    out = release(
        ReleaseConfig(run=str(tmp_path / "run"), out=str(tmp_path / "squares"), licence="mit", name="squares")
    )
    assert Tokenizer.from_pretrained(out).config.first_alone
    card = (out / "README.md").read_text()
    for words in (
        "vqloom: 5 frames of 16×16 pixels at 10 frames a second become 3×8×8 codes out of 16",
        "It is causal in time",
        "![an original beside its reconstruction](videos/00.webp)",
        "1 + a multiple of 2 frames",
        "video-tokenizer",
        "PSNR of frame differences (dB)",
    ):
        assert words in card, words
    assert Image.open(out / "videos" / "00.webp").n_frames == 5  # type: ignore[attr-defined]
    assert Image.open(out / "reconstructions.png").size == (5 * 18 - 2, 4 * (2 * 16 + 2) + 3 * 8)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["measured"]["metrics"]["difference_psnr"]["hash"] and metrics["frames"] == 5 * metrics["samples"]
