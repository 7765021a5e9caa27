"""Decoding batches of codes and writing their pictures (or other samples), while the next batch is drawn.

Threads write the pictures. On a GPU another one decodes them before, on a stream of its own; on a CPU the drawing
thread does, which has all cores. A batch's codes are written last, so that a batch with codes is complete.

Shapes: B batch, h w the codes' grid.
"""

import copy
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from launch.command.cores import share
from launch.files.atomic import writing
from launch.files.outputs import output
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.kernels.install import install
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.sampling.sliding import joined

PENDING = 2
"""Batches that wait to be written at most, besides the one that is drawn."""

MOST_THREADS = 8
"""That write pictures of one rank on a GPU; on a CPU one does."""


@torch.inference_mode()
def decode_samples(tokenizer: Tokenizer, idx_Bhw: Tensor, batch: int, overlap: int = 0) -> list[Any]:
    """The samples of some code grids, such as PIL pictures, at most `batch` decoded at once.

    With an `overlap` in frames, of windows of codes (B, W, …) that are joined to one video.
    """
    kind, samples = sample_kind(tokenizer.transform.kind if tokenizer.transform else "pictures"), list[Any]()
    for part_Bhw in idx_Bhw.split(batch):
        windows = part_Bhw.unbind(1) if overlap else [part_Bhw]
        x_BCHW = [tokenizer.decode(window_Bhw) for window_Bhw in windows]
        samples += kind.decoded(tokenizer, joined(x_BCHW, overlap) if overlap else x_BCHW[0])
    return samples


def as_decoder(
    tokenizer: Tokenizer, device: torch.device, precision: Literal["fp32", "bf16", "fp16"] = "fp32"
) -> Tokenizer:
    """A tokenizer on its device as it decodes there: with bf16 on a GPU a copy in bf16, in channels-last layout.

    fp16 leaves float32: activations of decoders may be too large for it. On a CPU it is the tokenizer itself, and of
    sounds, in which the 8 bits of bf16 would be heard.
    """
    if device.type == "cpu" or precision != "bf16" or tokenizer.config.spatial_dims == 1:
        return tokenizer
    decoder = copy.deepcopy(tokenizer).to(torch.bfloat16)
    if tokenizer.config.spatial_dims == 2:
        decoder = decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    install(decoder, device)
    return decoder


@dataclass(frozen=True)
class Files:
    """Where a batch goes."""

    folder: Path
    """The sampling's, for messages."""
    pictures: Sequence[Path]
    codes: Path
    codes_type: np.dtype
    """Type of the codes in their file."""


class Writers:
    """Threads that decode and write batches; a context, whose end waits for them.

    An error of theirs is raised by the next `put` or at the end. If the context ends by another one, no further picture
    is begun, those begun are finished, and no codes are written.
    """

    def __init__(self, decoder: Tokenizer, decode_batch: int, device: torch.device, overlap: int = 0):
        """`overlap` is that of decode_samples."""
        self.decoder, self.decode_batch, self.overlap = decoder, decode_batch, overlap
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        threads = 1 if self.stream is None else share(MOST_THREADS)
        self._savers = ThreadPoolExecutor(threads, thread_name_prefix="save")
        self._decoding = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._batches: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            while kind is None and self._batches:
                self._batches.popleft().result()
        finally:
            self._failed = self._failed or bool(self._batches)
            self._decoding.shutdown(cancel_futures=True)
            self._savers.shutdown(cancel_futures=True)

    def put(self, idx_Bhw: Tensor, files: Files) -> None:
        """Decode and write a batch's pictures and then its codes; waits while PENDING batches are not yet written."""
        while self._batches and (len(self._batches) >= PENDING or self._batches[0].done()):
            self._batches.popleft().result()
        if self.stream is None:
            decoded = self._decoded(idx_Bhw)
            self._batches.append(self._save(*decoded, files))
            return
        drawn, done = torch.cuda.Event(), Future[None]()
        drawn.record()
        idx_Bhw.record_stream(self.stream)
        self._batches.append(done)
        self._decoding.submit(self._decode_and_save, idx_Bhw, files, drawn, done)

    def _decoded(self, idx_Bhw: Tensor) -> tuple[list[Any], np.ndarray]:
        return decode_samples(self.decoder, idx_Bhw, self.decode_batch, self.overlap), idx_Bhw.cpu().numpy()

    def _decode_and_save(self, idx_Bhw: Tensor, files: Files, drawn: torch.cuda.Event, done: Future[None]) -> None:
        """In the decoding thread: on its stream, after the codes are drawn."""
        try:
            with torch.cuda.device(idx_Bhw.device), torch.cuda.stream(self.stream):
                drawn.wait()
                decoded = self._decoded(idx_Bhw)
            self._save(*decoded, files, done)
        except BaseException as error:
            done.set_exception(error)

    def _save(
        self, samples: list[Any], codes_Bhw: np.ndarray, files: Files, done: Future[None] | None = None
    ) -> Future[None]:
        """Let the threads write a batch; what is returned is done when its codes are written."""
        done, left, lock = done or Future(), len(samples), threading.Lock()

        def save(sample: Any, path: Path) -> None:
            nonlocal left
            if self._failed or done.done():
                return
            try:
                with output(files.folder):
                    sample.save(path)
                with lock:
                    left -= 1
                    if left:
                        return
                with writing(files.codes) as file:
                    np.save(file, codes_Bhw.astype(files.codes_type))
                done.set_result(None)
            except BaseException as error:
                with lock:
                    if not done.done():
                        done.set_exception(error)

        for sample, path in zip(samples, files.pictures, strict=True):
            self._savers.submit(save, sample, path)
        return done
