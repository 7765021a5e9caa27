"""run_distributed_test: a function on several gloo ranks, as an everyday tool."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests import forked


def run_distributed_test(
    func: Callable[..., Any], world_size: int = 2, args: Sequence[Any] = (), *, timeout: float = 120.0
) -> list[Any]:
    """Call `func(*args)` on each of `world_size` forked processes joined by gloo; what each returned, by rank.

    `func` must be importable (a function of a test module) and its result picklable. RANK, WORLD_SIZE and LOCAL_RANK
    are set, so that start_run works inside. An exception of a rank is raised here, with its traceback; after `timeout`
    seconds all ranks are ended and TimeoutError is raised.
    """
    context = forked.context()
    with tempfile.TemporaryDirectory() as folder:
        ends, processes = [], []
        place = str(Path(folder) / "rendezvous")
        for rank in range(world_size):
            ours, theirs = context.Pipe(duplex=False)
            given = (func, rank, world_size, tuple(args), place, theirs, timeout, dict(os.environ))
            process = context.Process(target=_rank, args=given)
            process.start()
            theirs.close()
            ends.append(ours)
            processes.append(process)
        try:
            return _collect(ends, timeout)
        finally:
            for process in processes:
                process.join(timeout=5)
                if process.is_alive():
                    process.kill()
                    process.join()


def _collect(ends: list[Connection], timeout: float) -> list[Any]:
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    while len(results) + len(failures) < len(ends):
        open_ends = [end for rank, end in enumerate(ends) if rank not in results and rank not in failures]
        # Once a rank failed the others may wait for it in vain: a short grace for a reason of their own is enough.
        ready = wait(open_ends, timeout=3 if failures else timeout)
        if not ready:
            break
        for end in ready:
            rank = ends.index(end)  # type: ignore[arg-type]
            try:
                good, value = end.recv()  # type: ignore[union-attr]
            except EOFError:
                good, value = False, "it ended without a word (killed, or os._exit)"
            (results if good else failures)[rank] = value
    if failures:
        raise AssertionError("\n".join(f"rank {rank} failed:\n{text}" for rank, text in sorted(failures.items())))
    if len(results) < len(ends):
        missing = sorted(set(range(len(ends))) - set(results))
        raise TimeoutError(f"ranks {missing} did not end within {timeout} s")
    return [results[rank] for rank in range(len(ends))]


def _rank(
    func: Callable[..., Any],
    rank: int,
    world_size: int,
    args: tuple[Any, ...],
    place: str,
    end: Connection,
    timeout: float,
    environment: dict[str, str],
) -> None:
    forked.be(environment)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="0",
        ACCELERATE_USE_CPU="true",
        OMP_NUM_THREADS="1",
    )
    import torch

    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{place}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        end.send((True, func(*args)))
    except BaseException:
        end.send((False, traceback.format_exc()))
    finally:
        end.close()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
