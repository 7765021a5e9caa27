"""Virtual environments that hold some of the installed distributions and nothing else, made in a second, by links."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def closure(names: tuple[str, ...]) -> set[str]:
    """Distributions with all that they require, as far as it is installed."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(name)
        wanted = [Requirement(text) for text in requires]
        todo += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def environment(folder: Path, *names: str) -> Path:
    """Make one with these distributions; its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    there = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for name in closure(names):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__", "bin"}:
            source = Path(str(found.locate_file(top)))
            if source.exists() and not (there / top).exists():
                (there / top).symlink_to(source.resolve())
    return folder / "bin" / "python"


def call(python: Path, code: str, *words: str, cwd: Path) -> str:
    """What a piece of code prints there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environ = {**kept, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf"), "OMP_NUM_THREADS": "1"}
    line = [str(python), "-I", "-c", code, *words]
    done = subprocess.run(line, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
