"""Batches are decoded and written behind the drawing: complete or without codes, whatever goes wrong."""

from __future__ import annotations

import contextlib
import errno
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from launch.command.file_errors import OutputError
from stage1_tokenizer import Tokenizer
from stage2_prior.sampling import writing
from stage2_prior.sampling.writing import PENDING, Files, Writers, as_decoder, decode_samples
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.tiny import CODES

CPU = torch.device("cpu")


@pytest.fixture
def tokenizer(coded: Coded) -> Tokenizer:
    return Tokenizer.from_pretrained(coded.tokenizer)


def codes(seed: int, device: str = "cpu") -> torch.Tensor:
    return torch.randint(CODES, (3, 4, 4), generator=torch.Generator().manual_seed(seed)).to(device)


def files(folder: Path, batch: int) -> Files:
    pictures = [folder / f"{batch}-{number}.png" for number in range(3)]
    return Files(folder, pictures, folder / f"{batch}.npy", np.dtype(np.uint16))


def check(folder: Path, batches: int, tokenizer: Tokenizer, device: str = "cpu") -> None:
    """All of the batches are there, and nothing else."""
    assert len(list(folder.iterdir())) == 4 * batches
    for batch in range(batches):
        idx_Bhw, there = codes(batch, device), files(folder, batch)
        assert np.load(there.codes).dtype == np.uint16 and np.array_equal(np.load(there.codes), idx_Bhw.cpu())
        for path, picture in zip(there.pictures, decode_samples(tokenizer, idx_Bhw, 2), strict=True):
            assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture))


def test_pictures_are_the_codes_decoded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with Writers(tokenizer, 2, CPU) as writers:
        for batch in range(5):
            writers.put(codes(batch), files(tmp_path, batch))
    check(tmp_path, 5, tokenizer)


def test_on_a_gpu_a_thread_decodes_on_a_stream_after_the_draw(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for CUDA's events and streams, which say in which order they are met."""
    met: list[tuple[str, str]] = []

    def meet(what: str) -> None:
        met.append((what, threading.current_thread().name.rpartition("_")[0]))

    class Event:
        def record(self) -> None:
            meet("drawn")

        def wait(self) -> None:
            meet("waited for")

    @contextlib.contextmanager
    def entered(_: Any) -> Any:
        meet("on the stream")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: "stream")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: meet("kept"))
    with Writers(tokenizer, 2, torch.device("cuda")) as writers:
        for batch in range(3):
            writers.put(codes(batch), files(tmp_path, batch))
    check(tmp_path, 3, tokenizer)
    assert [what for what, thread in met if thread == ""] == ["drawn", "kept"] * 3
    assert [what for what, thread in met if thread == "decode"] == ["on the stream", "waited for"] * 3
    monkeypatch.setattr(writing, "decode_samples", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), Writers(tokenizer, 2, torch.device("cuda")) as writers:
        writers.put(codes(0), files(tmp_path, 0))


@pytest.mark.parametrize("at_the_end", [True, False])
def test_an_error_of_a_writer_is_told_and_leaves_no_codes(
    at_the_end: bool, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Image.Image.save

    def save(self: Any, path: Path) -> None:
        if path.name == "1-1.png":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(self, path)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OutputError) as told, Writers(tokenizer, 2, CPU) as writers:
        for batch in range(2 if at_the_end else 9):
            writers.put(codes(batch), files(tmp_path, batch))
    assert told.value.errno == errno.ENOSPC and told.value.filename == str(tmp_path)
    assert (tmp_path / "0.npy").exists() and not (tmp_path / "1.npy").exists()
    assert at_the_end or not (tmp_path / "8.npy").exists(), "nothing is drawn for long after it"


def test_an_interruption_leaves_nothing_half(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun, go_on = Image.Image.save, threading.Event(), threading.Event()

    def save(self: Any, path: Path) -> None:
        begun.set()
        go_on.wait(10)
        real(self, path)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt), Writers(tokenizer, 2, CPU) as writers:
        writers.put(codes(0), files(tmp_path, 0))
        begun.wait(10)
        threading.Timer(0.05, go_on.set).start()
        raise KeyboardInterrupt
    written = list(tmp_path.iterdir())
    assert [path.name for path in written] == ["0-0.png"], "what was begun is finished"
    assert np.asarray(Image.open(written[0])).shape == (16, 16)


def test_drawing_waits_where_writing_is_behind(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, go_on, put = Image.Image.save, threading.Event(), []

    def save(self: Any, path: Path) -> None:
        go_on.wait(10)
        real(self, path)

    def draw() -> None:
        with Writers(tokenizer, 2, CPU) as writers:
            for batch in range(PENDING + 2):
                writers.put(codes(batch), files(tmp_path, batch))
                put.append(batch)

    monkeypatch.setattr(Image.Image, "save", save)
    drawing = threading.Thread(target=draw)
    drawing.start()
    drawing.join(0.5)
    assert len(put) == PENDING and drawing.is_alive()
    go_on.set()
    drawing.join(10)
    check(tmp_path, PENDING + 2, tokenizer)


def test_bf16_decodes_a_copy_in_bf16_on_gpus_alone(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert as_decoder(tokenizer, CPU, "bf16") is tokenizer
    assert as_decoder(tokenizer, gpu, "fp32") is as_decoder(tokenizer, gpu, "fp16") is tokenizer
    installed: list[Any] = []
    monkeypatch.setattr(writing, "install", lambda *what: installed.append(what))
    decoder = as_decoder(tokenizer, gpu, "bf16")
    assert installed == [(decoder, gpu)]
    assert {weight.dtype for weight in decoder.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in tokenizer.parameters()} == {torch.float32}
    kernels = [weight for weight in decoder.decoder.parameters() if weight.ndim == 4 and weight.shape[2] > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)
    exact, half = (
        np.stack([np.asarray(picture).astype(int) for picture in decode_samples(each, codes(0), 3)])
        for each in (tokenizer, decoder)
    )
    difference = np.abs(exact - half)
    assert 0 < difference.max() <= 6 and difference.mean() < 1, "of 255"


@pytest.mark.gpu
def test_a_gpu_writes_what_it_decodes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.to("cuda")
    with Writers(tokenizer, 2, torch.device("cuda")) as writers:
        for batch in range(5):
            writers.put(codes(batch, "cuda"), files(tmp_path, batch))
    check(tmp_path, 5, tokenizer, "cuda")
