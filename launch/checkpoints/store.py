"""Atomic checkpoints: written to a temporary folder, hashed, synced, then renamed; damaged ones are skipped.

launch.checkpoints.folders lists the files.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.parallel import DistributedDataParallel

from launch.checkpoints import folders, writing
from launch.checkpoints.pieces import SUFFIX, PieceState, Reader, Whole
from launch.command.cli import UserError
from launch.config import RunConfig
from launch.files.atomic import move_folder, write_file
from launch.ranks.vote import Vote
from launch.run.runtime import Run


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
    state: Mapping[str, Stateful | PieceState],
    run: Run | None = None,
    *,
    keep: int = 2,
) -> Path | None:
    """Write the run's checkpoint of `step` (steps done so far); its folder. `folders.to_delete` says which ones go.

    `state` is the same on every rank and written by rank 0 while the others wait, but for pieces
    (launch.checkpoints.pieces), of which each rank writes its own. A model wrapped for several ranks is saved as the
    model inside, so that another number of ranks can load it. Nothing is saved after a loss that isn't finite: that
    raises NotFiniteError. Where the disk takes no more, the older checkpoints stay, and run.on_save_error decides: a
    UserError, or a warning and None.

    With run.save_in_background the state is copied and written while training goes on; what became of it is told by
    the next `save`, or at the run's end (Run.finish_saving).
    """
    final = folders.place(folder, step)
    if run is not None:
        run.finish_saving()
        run.check_finite()
    parts = _files(state, run.rank if run else 0)
    if run is not None and run.background_vote is not None:
        copies, vote = writing.frozen(parts), run.background_vote
        thread = writing.Background(lambda: _write_checkpoint(folder, step, copies, keep, vote, run.config))
        run.unfinished = lambda: _told(folder, step, thread.wait(), run)
        return final
    vote = run.vote if run else Vote()
    problem = _write_checkpoint(folder, step, parts, keep, vote, run.config if run else None)
    return final if _told(folder, step, problem, run) else None


def _write_checkpoint(
    folder: Path, step: int, parts: Mapping[str, Any], keep: int, vote: Vote, config: RunConfig | None
) -> str | None:
    """Write this rank's files, on rank 0 finish the checkpoint and delete old ones; what was wrong with the disk."""
    final = folders.place(folder, step)
    temporary = final.with_name(f".{final.name}.part")
    problem = _on_main(vote, lambda: _make_empty(temporary))
    files: dict[str, Any] = {}
    mine = None
    if problem is None:
        files, mine = writing.write_all(temporary, parts)
    everyones = vote.gather((files, mine))
    problem = problem or next((text for _, text in everyones if text), None)
    merged = {name: entry for part, _ in everyones for name, entry in part.items()}
    manifest = {"format": folders.FORMAT, "step": step, "world_size": len(everyones), "files": merged}
    problem = problem or _on_main(vote, lambda: _finish(temporary, final, manifest))
    if vote.rank == 0:
        if problem is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            for old in folders.to_delete(folder, folders.steps(folder), keep, config):
                shutil.rmtree(folders.place(folder, old), ignore_errors=True)
    vote.gather(None)
    return problem


def _on_main(vote: Vote, work: Callable[[], None]) -> str | None:
    """Do something with files on rank 0; what was wrong with the disk, on every rank."""
    problem = None
    if vote.rank == 0:
        try:
            work()
        except OSError as error:
            problem = error.strerror or str(error)
    return vote.broadcast(problem)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _files(state: Mapping[str, Stateful | PieceState], rank: int) -> dict[str, Any]:
    """What this rank writes, by file name."""
    found: dict[str, Any] = {}
    for name, part in state.items():
        if isinstance(part, PieceState):
            if rank == 0 or not part.everywhere:
                found[_piece_file(name, rank)] = part.written_by(rank)
        elif rank == 0:
            found[f"{name}.pt"] = _inner(part)
    return found


def _piece_file(name: str, rank: int | str) -> str:
    return f"{name}.part{rank}{SUFFIX}"


def _told(folder: Path, step: int, problem: str | None, run: Run | None) -> bool:
    """Whether the checkpoint is there; where it isn't, run.on_save_error decides."""
    if problem is None:
        return True
    kept = folders.steps(folder)
    text = f"the checkpoint of step {step} in {folder} can't be written ({problem}); "
    text += f"that of step {kept[0]} is the newest" if kept else "there is no older one"
    if run is None or run.config.on_save_error == "stop":
        raise UserError(f"{text}: free some space and rerun the command, or set run.on_save_error=continue")
    run.say(f"warning: {text}; the run continues (run.on_save_error=continue)")
    return False


def load_latest(folder: Path, state: Mapping[str, Stateful | PieceState], run: Run | None = None) -> int | None:
    """Load the run's newest valid checkpoint into `state`, on every rank; its step, or None without one.

    Damaged ones are skipped with a warning that says why. A part may have been saved in pieces and be loaded whole, or
    the other way round. Raises UserError where the checkpoint holds other parts than `state` names.
    """
    if run is not None:
        run.finish_saving()
    chosen = _newest(folder, run.say if run else _say) if run is None or run.is_main else None
    chosen = run.broadcast(chosen) if run else chosen
    if chosen is None:
        return None
    path = folders.place(folder, chosen)
    manifest = json.loads((path / folders.MANIFEST).read_text())
    _check_parts(path, manifest, state)
    for name, part in state.items():
        _load(path, manifest, name, part)
    return int(manifest["step"])


def _load(path: Path, manifest: dict[str, Any], name: str, part: Stateful | PieceState) -> None:
    """Load one part from a checkpoint, in whichever form it was saved."""
    file = f"{name}.pt"
    plain = torch.load(path / file, map_location="cpu", weights_only=True) if file in manifest["files"] else None
    if not isinstance(part, PieceState):
        _inner(part).load_state_dict(from_pieces(part, pieces(path, manifest, name)) if plain is None else plain)
    elif plain is None:
        part.load(pieces(path, manifest, name))
    else:
        assert part.plain is not None
        part.load(Whole(part.plain(plain), path))


def from_pieces(part: Any, read: Reader) -> dict[str, Any]:
    """A part's state_dict where it was saved in pieces: what its own `from_pieces` makes of them, else all by name."""
    own = getattr(part, "from_pieces", None)
    return read.all() if own is None else own(read)


def _newest(folder: Path, say: Callable[[str], None]) -> int | None:
    """The step of the run's newest valid checkpoint; says which ones are damaged."""
    for step in folders.steps(folder):
        path = folders.place(folder, step)
        if (damage := folders.verify(path)) is None:
            return step
        say(f"warning: checkpoint {path} is skipped: {damage}")
    return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def pieces(path: Path, manifest: dict[str, Any], name: str) -> Reader:
    """A reader of the part `name` of a checkpoint that was written in pieces."""
    start, end = _piece_file(name, "\0").split("\0")
    files = (file for file in sorted(manifest["files"]) if file.startswith(start) and file.endswith(end))
    return Reader([path / file for file in files])


def _inner(part: Stateful) -> Stateful:
    """The model inside its wrapper for several ranks, whose names would otherwise begin with `module.`."""
    return part.module if isinstance(part, DistributedDataParallel) else part


def _finish(temporary: Path, final: Path, manifest: dict[str, Any]) -> None:
    """The manifest last, then the rename that makes the checkpoint exist."""
    write_file(temporary / folders.MANIFEST, json.dumps(manifest, indent=1))
    move_folder(temporary, final)  # what lies there, of the same step, was skipped as damaged, or is equal


def _check_parts(path: Path, manifest: dict[str, Any], state: Mapping[str, Any]) -> None:
    """UserError unless the checkpoint holds these parts, in a form that can be loaded."""
    held = {re.sub(r"\.part\d+\.", ".", name) for name in manifest["files"] if ".rank" not in name}
    needed = {f"{name}{SUFFIX if isinstance(part, PieceState) else '.pt'}": part for name, part in state.items()}
    either = {
        other: name
        for name, part in needed.items()
        if (other := _other_form(name)) in held and (not isinstance(part, PieceState) or part.plain is not None)
    }
    if {either.get(name, name) for name in held} != needed.keys():
        raise UserError(
            f"checkpoint {path} holds {', '.join(sorted(held))} but this run needs "
            f"{', '.join(sorted(needed))}: resume it with the configuration it was saved with"
        )


def _other_form(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.pt" if f".{suffix}" == SUFFIX else f"{stem}{SUFFIX}"
