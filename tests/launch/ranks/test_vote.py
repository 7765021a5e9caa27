"""Votes: one group for all of a process, which waits no longer than it is told."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch

from launch.ranks.vote import Vote, on_main
from tests.distributed import run_distributed_test


def on_gpus(seconds: float) -> Any:
    """An accelerator as of ranks on GPUs, which need a group for the CPU."""
    rank = torch.distributed.get_rank()
    return SimpleNamespace(
        process_index=rank,
        num_processes=torch.distributed.get_world_size(),
        is_main_process=rank == 0,
        device=torch.device("cuda"),
        init_handler=SimpleNamespace(timeout=timedelta(seconds=seconds)),
    )


def agreement() -> tuple[int, bool, list[int], int]:
    ranks = on_gpus(60)
    votes = [Vote(ranks) for _ in range(3)]
    on_main(ranks, lambda: None)
    groups = {id(vote._group) for vote in votes} | {id(Vote(ranks)._group)}
    assert Vote(ranks, apart=True)._group is not votes[0]._group
    rank = ranks.process_index
    return votes[0].largest(rank * 5), votes[1].any(rank == 1), votes[2].gather(rank), len(groups)


def test_all_votes_of_a_process_share_one_group() -> None:
    assert run_distributed_test(agreement, 2) == [(5, True, [0, 1], 1)] * 2


def waiting() -> float:
    vote = Vote(on_gpus(2))
    began = time.monotonic()
    if vote.rank == 1:
        time.sleep(12)
        return 0.0
    try:
        vote.any(True)
    except RuntimeError:
        return time.monotonic() - began
    raise AssertionError("rank 0 went on alone")


def test_a_vote_waits_as_long_as_the_run_says() -> None:
    waited, _ = run_distributed_test(waiting, 2)
    assert 1 < waited < 11
