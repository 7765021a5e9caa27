"""Packages of Debian, at fixed versions and hashes."""

import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from launch.command.cli import UserError, one_line


def debian_contents(package: str, version: str, sha256: str, folder: Path) -> dict[str, bytes]:
    """The package's files, name → bytes; fetched into `folder` if it isn't there. UserError if its hash is another."""
    path = folder / f"{package}_{version}_all.deb"
    if not path.exists():
        if shutil.which("apt-get") is None:
            raise UserError(f"{path.name} isn't there and apt-get, which fetches it, isn't installed: use Debian")
        command = ["apt-get", "download", f"{package}={version}"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode or not path.exists():
            raise UserError(f"`{' '.join(command)}` failed: {one_line(result.stderr)[-300:]}")
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise UserError(f"{path} is not the package {package} {version} (another SHA-256): delete it")
    packed = next(content for name, content in members(raw) if name == "data.tar.xz")
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(packed))) as archive:
        files = ((member, archive.extractfile(member)) for member in archive if member.isfile())
        return {member.name.removeprefix("./"): file.read() for member, file in files if file is not None}


def members(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each member of an `ar` archive, which a .deb is."""
    at = 8
    while at + 60 <= len(raw):
        name, size = raw[at : at + 16].decode().strip().rstrip("/"), int(raw[at + 48 : at + 58])
        yield name, raw[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
