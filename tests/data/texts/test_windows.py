"""Windows of bytes: a function of seed, epoch and key; and their one-hot form."""

from __future__ import annotations

from pathlib import Path

import torch

from data.config import DataConfig
from data.reading.stream import Stream, every_sample
from data.texts.config import TextConfig
from data.texts.windows import one_hot
from tests.stage2_prior.unified.tiny import write_texts


def test_windows_are_parts_of_their_texts_and_the_same_each_time(tmp_path: Path) -> None:
    texts = [f"{i}" + "abcdefghij" * (i + 1) for i in range(8)]
    index = write_texts(tmp_path, texts)
    transform = TextConfig(length=16)
    config = DataConfig(index=str(index.path), batch_size=4, threads=1, transform=transform)
    runs = []
    for _ in range(2):
        with Stream(config, seed=3) as stream:
            batches = stream.batches(0)
            runs.append([next(batches) for _ in range(4)])
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one.byte_BT, other.byte_BT)
        for key, byte_T, length in zip(one.keys, one.byte_BT.tolist(), one.lengths_B.tolist(), strict=True):
            text = texts[int(key)].encode()
            assert bytes(byte_T[:length]) in text
            assert length == min(16, len(text))
            assert not any(byte_T[length:])
    firsts = {
        (key, bytes(row)) for batch in runs[0] for key, row in zip(batch.keys, batch.byte_BT.tolist(), strict=True)
    }
    assert len(firsts) > 8, "another epoch has other windows"
    (whole,) = every_sample(str(index.path), transform, batch_size=8)
    assert bytes(whole.byte_BT[3].tolist()) == texts[3].encode()[:16]


def test_one_hot_has_one_channel_for_a_byte_and_nothing_behind_the_end() -> None:
    byte_BT = torch.tensor([[65, 0, 255], [1, 0, 0]], dtype=torch.uint8)
    x_BCT = one_hot(byte_BT, torch.tensor([3, 1]))
    assert x_BCT.shape == (2, 256, 3)
    assert x_BCT.sum((1, 2)).tolist() == [3, 1]
    assert [int(x_BCT[0, :, t].argmax()) for t in range(3)] == [65, 0, 255]
