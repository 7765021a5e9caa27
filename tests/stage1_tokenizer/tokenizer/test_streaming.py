"""Sounds and videos in parts of any size give what the whole gives, to the bit."""

from __future__ import annotations

import pytest
import torch

from stage1_tokenizer.tokenizer.streaming import Stream
from tests.stage1_tokenizer.networks.test_sound_networks import sounds, tokenizer_of
from tests.stage1_tokenizer.small_sound import CAUSAL
from tests.stage1_tokenizer.small_videos import CAUSAL as VIDEOS
from tests.stage1_tokenizer.small_videos import clips
from tests.stage1_tokenizer.small_videos import tokenizer_of as video_tokenizer

FRAMES = 20


@pytest.mark.parametrize("size", [1, 5, 12, 37, 1000])
@pytest.mark.parametrize("name", CAUSAL)
def test_parts_give_what_the_whole_gives(name: str, size: int) -> None:
    tokenizer = tokenizer_of(name)
    x_BCT = sounds(tokenizer, FRAMES)
    codes = tokenizer.encode(x_BCT)
    whole = tokenizer.decode(codes)
    stream = Stream(tokenizer)
    *first, last = x_BCT.split(size, dim=-1)
    parts = [*(stream.encode(part) for part in first), stream.encode(last, last=True)]
    assert torch.equal(torch.cat(parts, dim=-1), codes)
    *first, last = codes.split(max(size // 4, 1), dim=-1)
    waves = [*(stream.decode(part) for part in first), stream.decode(last, last=True)]
    assert torch.equal(torch.cat(waves, dim=-1), whole)


def test_codes_come_as_soon_as_a_block_is_there() -> None:
    tokenizer = tokenizer_of("mimi")  # blocks of 3 frames of 12 samples
    x_BCT, stream = sounds(tokenizer, 8), Stream(tokenizer)
    assert stream.encode(x_BCT[..., :35]).shape == (2, 3, 0)
    assert stream.encode(x_BCT[..., 35:36]).shape == (2, 3, 3)
    codes = stream.encode(x_BCT[..., 36:], last=True)
    assert codes.shape == (2, 3, 5)
    assert stream.encode(x_BCT[..., :0], last=True).shape == (2, 3, 0)
    assert stream.decode(codes[..., :2]).shape == (2, 1, 0)
    assert stream.decode(codes[..., 2:4], last=True).shape == (2, 1, 48)


def test_what_can_not_be_streamed_is_refused() -> None:
    for name in ("dac", "vocos"):
        with pytest.raises(ValueError, match="isn't causal can't be streamed"):
            Stream(tokenizer_of(name))
    tokenizer = tokenizer_of("encodec")
    stream = Stream(tokenizer)
    with pytest.raises(ValueError, match="size=5 is not a multiple of the tokenizer's stride 6"):
        stream.encode(torch.zeros(1, 1, 5), last=True)
    with pytest.raises(ValueError, match="not all in"):
        Stream(tokenizer).decode(torch.full((1, 3, 8), 99))


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("name", VIDEOS)
def test_parts_of_videos_give_what_the_whole_gives(name: str, size: int) -> None:
    tokenizer = video_tokenizer(config := VIDEOS[name])
    x_BCTHW, stream = clips(config, codes=4), Stream(tokenizer)
    codes = tokenizer.encode(x_BCTHW)
    *first, last = x_BCTHW.split(size, 2)
    parts = [*(stream.encode(part) for part in first), stream.encode(last, last=True)]
    assert torch.equal(torch.cat(parts, 1), codes)
    *first, last = codes.split(size, 1)
    frames = [*(stream.decode(part) for part in first), stream.decode(last, last=True)]
    assert torch.equal(torch.cat(frames, 2), tokenizer.decode(codes))


def test_the_first_frame_of_a_video_has_its_codes_at_once() -> None:
    tokenizer = video_tokenizer(config := VIDEOS["conv"])  # blocks of 2·2 frames after the first
    x_BCTHW, stream = clips(config, codes=5), Stream(tokenizer)
    found = [stream.encode(x_BCTHW[:, :, :1]), stream.encode(x_BCTHW[:, :, 1:4]), stream.encode(x_BCTHW[:, :, 4:5])]
    assert [tuple(each.shape) for each in found] == [(2, 1, 4, 4), (2, 0, 4, 4), (2, 2, 4, 4)]
    assert stream.decode(found[1]).shape == (2, 1, 0, 16, 16)
    with pytest.raises(ValueError, match=r"size=4 is not 1 \+ a multiple"):
        stream.encode(x_BCTHW[:, :, :3], last=True)
