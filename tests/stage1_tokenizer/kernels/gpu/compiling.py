"""Compiles what an operator would launch on a GPU, where there is none: launches are recorded without data."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from stage1_tokenizer.kernels.gpu import loading

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64", torch.int32: "i32"}


def need_triton() -> None:
    """Skip the test where triton isn't installed; with VQLOOM_NEED_TRITON=1, as in CI, it fails."""
    if importlib.util.find_spec("triton") is None:
        if os.environ.get("VQLOOM_NEED_TRITON") == "1":
            pytest.fail("VQLOOM_NEED_TRITON=1, but triton is not installed: pip install --no-deps triton==3.9.0")
        pytest.skip("no triton here")


class Launch(NamedTuple):
    name: str
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    named: dict[str, Any]
    program: Any


class Recorder:
    """In place of a module of programs: takes launches down."""

    def __init__(self, name: str, launches: list[Launch]):
        self._module, self._launches = loading.programs(name), launches

    def __getattr__(self, name: str) -> Program:
        return Program(name, getattr(self._module, name), self._launches)


class Program(NamedTuple):
    name: str
    program: Any
    launches: list[Launch]

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *args, **named: self.launches.append(Launch(self.name, grid, args, named, self.program))


@contextmanager
def recorded(operators: Any) -> Iterator[list[Launch]]:
    """The launches of a module's operators inside; nothing runs."""
    launches: list[Launch] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "programs", lambda name: Recorder(name, launches))
        yield launches


class Compiled(NamedTuple):
    shared: int
    """Bytes of shared memory of a block."""
    registers: int
    spilled: int
    """Bytes that a thread keeps in memory for want of registers."""
    code: str
    """Machine instructions."""


def compiled(launch: Launch, capability: int) -> Compiled:
    """A launch, specialized as Triton does it by the values of its arguments, for a GPU of this capability."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {name: launch.named[name] for name in ("num_warps", "enable_fp_fusion") if name in launch.named}
    given = dict(zip(launch.program.arg_names, launch.args, strict=False)) | launch.named
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for number, parameter in enumerate(launch.program.params):
        value = given[parameter.name]
        free = not parameter.do_not_specialize
        if parameter.is_constexpr or (free and type(value) is int and value == 1):
            signature[parameter.name], constants[(number,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{TYPES[value.dtype]}"
            attributes[(number,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if value < 1 << 31 else "i64"
            if free and value % 16 == 0:
                attributes[(number,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.program, signature, constants, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return Compiled(made.metadata.shared, *_resources(made.asm["cubin"]))


def _resources(binary: bytes) -> tuple[int, int, str]:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
        code = subprocess.run([tools / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr)
    assert found, usage.stdout
    return int(found[1]), int(found[2]), code.stdout
