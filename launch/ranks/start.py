"""Ranks under accelerate: starts the requested number or none, and makes them fail together."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from launch.command.cli import UserError, mended_by_user, one_line
from launch.config import RunConfig
from launch.ranks import numa, trackers

RIGHT_WAY = (
    "start with `python -m launch.local --processes N MODULE …` or "
    "`accelerate launch --config_file launch/accelerate/{cpu,gpu}.yaml --num_processes N -m MODULE …`"
)
"""How to start several ranks; the end of every error about a wrong start."""

LAUNCHER = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
"""What accelerate launch sets for files with distributed_type DEEPSPEED or FSDP."""


def start(run: RunConfig, strategies: Sequence[str] = ("ddp",)) -> Accelerator:
    """Build the Accelerator, on gloo where there is no GPU, and check that its ranks are the requested ones.

    `accelerate launch` without the right flags silently runs every process as rank 0 of 1, or one process instead of
    several. Raises UserError for that, where the launcher's mixed precision contradicts run.precision, for a tracker
    that isn't installed, and for a strategy that isn't among `strategies`.
    """
    _check_environment(run)
    trackers.check(run)
    if (requested := strategy(run)) not in strategies:
        known = " or ".join(strategies)
        raise UserError(f"run.strategy={requested} is not supported by this command: set it to {known}")
    AcceleratorState._reset_state(reset_partial_state=True)  # forget an earlier run of this process
    cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, which accelerate may load, warns otherwise
    with _plain_ranks():
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="bf16" if run.precision == "bf16" else "no",
            log_with=list(run.trackers) or None,
            project_dir=run.folder,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=run.timeout))],
        )
    _check_ranks(accelerator, run)
    if run.bind_cores and accelerator.device.type == "cuda":
        numa.bind(torch.cuda.get_device_properties(accelerator.device))
    return accelerator


def strategy(run: RunConfig) -> str:
    """What run.strategy and the accelerate file request, one of launch.strategies; UserError where they differ."""
    launched = _launched_strategy()
    if run.strategy is not None and launched not in (None, run.strategy):
        raise UserError(
            f"run.strategy={run.strategy} but accelerate launch was given a file for {launched}: remove one of them"
        )
    return run.strategy or launched or "ddp"


def _launched_strategy() -> str | None:
    """The strategy of the accelerate file that this process was launched with; None where it names none."""
    environ = os.environ
    if environ.get("ACCELERATE_USE_FSDP") == "true":
        refused = {"FSDP_OFFLOAD_PARAMS": "true", "FSDP_ACTIVATION_CHECKPOINTING": "true", "FSDP_VERSION": "1"}
        for name, value in refused.items():
            if environ.get(name, "").lower() == value:
                raise UserError(f"{name.lower()}={value} is not supported here: use launch/accelerate/fsdp2.yaml")
        return "fsdp2"
    if environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        path = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
        if not path:
            raise UserError("the accelerate file names no deepspeed_config_file: use launch/accelerate/zero2.yaml")
        try:
            settings = json.loads(Path(path).read_text())
            return f"zero{int(settings['zero_optimization']['stage'])}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"deepspeed_config_file={path} can't be read ({error}): give DeepSpeed's settings as JSON, with "
                "zero_optimization.stage 1, 2 or 3"
            ) from error
    return None


@contextlib.contextmanager
def _plain_ranks() -> Iterator[None]:
    """Hide the file's strategy from accelerate, so that it joins the ranks and launch.strategies does the sharing."""
    hidden = {name: os.environ.pop(name) for name in LAUNCHER if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _check_environment(run: RunConfig) -> None:
    """Check what the environment says, before a device is used."""
    environ = os.environ
    launched = "ACCELERATE_MIXED_PRECISION" in environ
    if launched and "MASTER_ADDR" in environ and "RANK" not in environ:
        raise UserError(
            f"several processes were requested of accelerate launch, but it started one, undistributed: {RIGHT_WAY}"
        )
    world = int(environ.get("WORLD_SIZE", "1"))
    if run.processes is not None and run.processes != world:
        raise UserError(f"run.processes={run.processes} but the launcher started {world}: {RIGHT_WAY}")
    requested = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if requested not in ("no", {"fp32": "no"}.get(run.precision, run.precision)):
        raise UserError(
            f"run.precision={run.precision} but accelerate launch says --mixed_precision {requested}: "
            f"remove the flag and set run.precision"
        )


def _check_ranks(accelerator: Accelerator, run: RunConfig) -> None:
    requested = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != requested:
        raise UserError(
            f"{requested} processes were requested, but this one is alone of {accelerator.num_processes}: {RIGHT_WAY}"
        )
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise UserError(f"accelerate's distributed type {kind} is not supported here: {RIGHT_WAY}")


def end(accelerator: Accelerator, *, close_group: bool) -> None:
    """Close the trackers, and the process group if start created it."""
    trackers.finish(accelerator)
    if close_group and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def failing_together(accelerator: Accelerator) -> Iterator[None]:
    """On an exception on one of several ranks, print the reason and end this process at once.

    The launcher then ends the other ranks; one that was waiting for this one says so in one line.
    """
    try:
        yield
    except Exception as error:
        alone = "TORCHELASTIC_RUN_ID" not in os.environ or accelerator.num_processes == 1
        if alone or mended_by_user(error) is not None:
            raise
        rank = accelerator.process_index
        if _lost_a_peer(error):
            print(f"rank {rank} ends because another rank is gone: {one_line(error, 300)}", file=sys.stderr, flush=True)
        else:
            print(f"rank {rank} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        os._exit(1)


def _lost_a_peer(error: BaseException) -> bool:
    signs = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "NCCL", "Broken pipe")
    return any(sign in str(error) for sign in signs)
