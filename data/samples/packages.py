"""Packages of the public npm registry, at fixed versions and hashes."""

import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from launch.command.cli import UserError, one_line


@dataclass(frozen=True)
class Package:
    """One version of an npm package."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The name that `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


EMOJI_DATA = Package(
    "emoji-datasource-google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
)
"""The table of all emoji: names and categories."""


def contents(package: Package, folder: Path) -> dict[str, bytes]:
    """The package's files, name → bytes; fetched into `folder` if it isn't there. UserError if its hash is another."""
    path = folder / package.file
    if not path.exists():
        if shutil.which("npm") is None:
            raise UserError(f"{package.file} isn't there and npm, which fetches it, isn't installed: install Node.js")
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode or not path.exists():
            raise UserError(f"`{' '.join(command)}` failed: {one_line(result.stderr)[-300:]}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise UserError(f"{path} is not the package {package.name} {package.version} (another SHA-256): delete it")
    with tarfile.open(path) as archive:
        files = ((member, archive.extractfile(member)) for member in archive if member.isfile())
        return {member.name: file.read() for member, file in files if file is not None}


def categories(table: list[dict]) -> dict[str, str]:
    """Code point sequence (lower case, joined by dashes) → category, skin tones and unqualified forms included."""
    category = {}
    for entry in table:
        forms = [entry, *(entry.get("skin_variations") or {}).values()]
        for name in (form.get(kind) for form in forms for kind in ("unified", "non_qualified")):
            if name:
                category[name.lower()] = entry["category"]
    return category
