"""Loads a CUDA device that does nothing (fake_cuda.cpp) into this process; importing this is enough. Knows no torch."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_cuda.cpp")


def load() -> None:
    """Load fake_cuda.cpp, compiled if it is not yet there; a CUDA build of torch has a device guard of its own."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None, "torch is not installed"
    torch_folder = Path(spec.origin).parent
    if (torch_folder / "lib" / "libtorch_cuda.so").exists():
        return
    assert "torch" not in sys.modules, "import tests.gpu.fake_device before torch, in a process of its own"
    version = (torch_folder / "version.py").read_bytes()
    name = hashlib.sha256(SOURCE.read_bytes() + version).hexdigest()[:16]
    library = SOURCE.parent / "__pycache__" / f"fake_cuda-{name}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        own = library.with_suffix(f".{os.getpid()}")  # other processes may compile it at the same time
        line = ["g++", "-shared", "-fPIC", "-std=c++20", f"-I{torch_folder}/include", str(SOURCE)]
        line += [f"-L{torch_folder}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch_folder}/lib", "-o", str(own)]
        subprocess.run(line, check=True)
        own.replace(library)
    ctypes.CDLL(str(library))


load()
