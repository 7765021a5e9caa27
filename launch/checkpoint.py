"""Checkpoints that are whole or absent: written aside, hashed, fsynced, renamed; damaged ones are passed over.

RUN/checkpoints/step-000001234/
    manifest.json     {"format": 1, "step": …, "world_size": …, "files": {NAME: {"size": …, "sha256": …}}}
    <name>.pt         the state_dict of what the call names, by torch.save; read with weights_only=True
    <name>.rank3.pt   the same for state that differs by rank
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from data.cli import UserError
from launch import retention

if TYPE_CHECKING:
    from launch.runtime import Run

MANIFEST = "manifest.json"
FORMAT = 1
FOLDER, PREFIX = "checkpoints", "step-"


class Stateful(Protocol):
    """Anything whose state is a dictionary of tensors and plain values: modules, optimizers, schedules, EMA."""

    def state_dict(self) -> dict[str, Any]:
        """The state; tensors, numbers, strings, lists and dictionaries only."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take the state back."""
        ...


def save(
    folder: Path,
    step: int,
    state: Mapping[str, Stateful],
    run: Run | None = None,
    *,
    keep: int = 2,
    per_rank: Mapping[str, Stateful] | None = None,
) -> Path | None:
    """Write the run's checkpoint of `step` (steps done so far) and delete all but the `keep` newest; its folder.

    run.keep_every and run.keep_best spare more (launch.retention).

    `state` is the same on every rank and written by rank 0 while the others wait; `per_rank` is written by each rank.
    A model wrapped for several ranks is saved as the model inside, so that another number of ranks can load it.
    Nothing is saved after a loss that isn't finite: that raises NotFiniteError. Where the disk takes no more, the older
    checkpoints stay, and run.on_save_error decides: a UserError, or a warning and None.
    """
    final = folder / FOLDER / _name(step)
    temporary = final.with_name(f".{final.name}.part")
    if run is not None:
        run.check_finite()
    problem = _on_main(run, lambda: _make_empty(temporary))
    files: dict[str, Any] = {}
    mine = None
    if problem is None:
        files, mine = _write_parts(temporary, state if _is_main(run) else {}, per_rank or {}, run)
    everyones = run.gather((files, mine)) if run else [(files, mine)]
    problem = problem or next((text for _, text in everyones if text), None)
    merged = {name: entry for part, _ in everyones for name, entry in part.items()}
    manifest = {"format": FORMAT, "step": step, "world_size": len(everyones), "files": merged}
    problem = problem or _on_main(run, lambda: _finish(temporary, final, manifest))
    if problem is not None:
        _not_written(folder, temporary, step, problem, run)
        return None
    if _is_main(run):
        for old in retention.doomed(folder, steps(folder), keep, run.config if run else None):
            shutil.rmtree(folder / FOLDER / _name(old), ignore_errors=True)
    _wait(run)
    return final


def _on_main(run: Run | None, work: Callable[[], None]) -> str | None:
    """Do something with files on rank 0; what was wrong with the disk, on every rank."""
    problem = None
    if _is_main(run):
        try:
            work()
        except OSError as error:
            problem = str(error)
    return run.broadcast(problem) if run else problem


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_parts(
    temporary: Path, state: Mapping[str, Stateful], per_rank: Mapping[str, Stateful], run: Run | None
) -> tuple[dict[str, Any], str | None]:
    """This rank's files with their sizes and hashes, and what was wrong with the disk."""
    files = {f"{name}.pt": _inner(part) for name, part in state.items()}
    files |= {f"{name}.rank{run.rank if run else 0}.pt": part for name, part in per_rank.items()}
    try:
        return {name: _write(temporary / name, part) for name, part in files.items()}, None
    except OSError as error:
        return {}, str(error)
    except RuntimeError as error:  # torch's zip writer hides the file's OSError in its own
        if isinstance(error.__context__, OSError):
            return {}, str(error.__context__)
        raise


def _not_written(folder: Path, temporary: Path, step: int, problem: str, run: Run | None) -> None:
    if _is_main(run):
        shutil.rmtree(temporary, ignore_errors=True)
    kept = steps(folder)
    text = f"the checkpoint of step {step} can't be written ({problem}); "
    text += f"that of step {kept[0]} is the newest" if kept else "there is no older one"
    if run is None or run.config.on_save_error == "stop":
        raise UserError(f"{text}: make room and start again, or set run.on_save_error=continue")
    _say(run, f"warning: {text}; the run goes on (run.on_save_error=continue)")


def load_latest(
    folder: Path,
    state: Mapping[str, Stateful],
    run: Run | None = None,
    *,
    per_rank: Mapping[str, Stateful] | None = None,
) -> int | None:
    """Load the run's newest checkpoint that is whole into `state`, on every rank; its step, or None without one.

    Each damaged one is passed over with a warning that says why. Raises UserError where the checkpoint holds other
    parts than `state` names.
    """
    chosen = None
    if _is_main(run):
        for path in _folders(folder):
            if (damage := verify(path)) is None:
                chosen = path.name
                break
            _say(run, f"warning: checkpoint {path} is passed over: {damage}")
    chosen = run.broadcast(chosen) if run else chosen
    if chosen is None:
        return None
    path = folder / FOLDER / chosen
    manifest = json.loads((path / MANIFEST).read_text())
    rank = run.rank if run else 0
    parts = {f"{name}.pt": part for name, part in state.items()}
    parts |= {f"{name}.rank{rank}.pt": part for name, part in (per_rank or {}).items()}
    _check_parts(path, manifest, parts)
    for name, part in parts.items():
        _read(path / name, _inner(part))
    return int(manifest["step"])


def verify(path: Path) -> str | None:
    """Why a checkpoint folder can't be trusted, naming the file: missing, truncated or altered; None where it can."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return f"{MANIFEST} can't be read"
    if manifest.get("format") != FORMAT:
        return f"{MANIFEST} has format {manifest.get('format')}, this program reads {FORMAT}"
    for name, (size, digest) in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if (found := (path / name).stat().st_size) != size:
            return f"{name} is truncated or overgrown: {found} bytes instead of {size}"
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"{name} is altered: its sha256 isn't the manifest's"
    return None


def steps(folder: Path) -> list[int]:
    """Steps of the run's checkpoints, newest first, whole or damaged."""
    return [int(path.name.removeprefix(PREFIX)) for path in _folders(folder)]


def _name(step: int) -> str:
    return f"{PREFIX}{step:09d}"


def _folders(folder: Path) -> list[Path]:
    found = (folder / FOLDER).glob(f"{PREFIX}*") if (folder / FOLDER).is_dir() else iter(())
    return sorted((path for path in found if path.name.removeprefix(PREFIX).isdigit()), reverse=True)


def _inner(part: Stateful) -> Stateful:
    """The model inside its wrapper for several ranks, whose names would otherwise begin with `module.`."""
    from torch.nn.parallel import DistributedDataParallel

    return part.module if isinstance(part, DistributedDataParallel) else part


class _HashingFile:
    """Counts and hashes what is written through it, so that a checkpoint is read back only when it is loaded."""

    def __init__(self, file: BinaryIO):
        self._file, self._hash, self.size = file, hashlib.sha256(), 0

    def write(self, piece: Any) -> int:
        self._hash.update(piece)
        self.size += len(piece)
        return self._file.write(piece)

    def flush(self) -> None:
        self._file.flush()

    @property
    def entry(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self._hash.hexdigest()}


def _write(path: Path, part: Stateful) -> dict[str, Any]:
    import torch

    with path.open("wb") as file:
        hashing = _HashingFile(file)
        torch.save(part.state_dict(), cast("BinaryIO", hashing))
        file.flush()
        os.fsync(file.fileno())
    return hashing.entry


def _read(path: Path, part: Stateful) -> None:
    import torch

    part.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def _finish(temporary: Path, final: Path, manifest: dict[str, Any]) -> None:
    """The manifest last, then the rename that makes the checkpoint exist."""
    with (temporary / MANIFEST).open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(temporary)
    if final.exists():  # the same step again: what lies there was passed over as damaged, or is equal
        shutil.rmtree(final)
    temporary.rename(final)
    _sync_folder(final.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_parts(path: Path, manifest: dict[str, Any], parts: Mapping[str, Stateful]) -> None:
    saved = {name for name in manifest["files"] if ".rank" not in name}
    asked = {name for name in parts if ".rank" not in name}
    if saved != asked or not set(parts) <= set(manifest["files"]):
        raise UserError(
            f"checkpoint {path} holds {', '.join(sorted(manifest['files']))} but this run asks for "
            f"{', '.join(sorted(parts))}: continue it with the configuration and ranks it was saved with"
        )


def _is_main(run: Run | None) -> bool:
    return run is None or run.is_main


def _wait(run: Run | None) -> None:
    if run is not None:
        run.barrier()


def _say(run: Run | None, text: str) -> None:
    if run is not None:
        run.say(text)
    else:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    from data.cli import run as run_command
    from launch.inspection import main

    run_command(main)
