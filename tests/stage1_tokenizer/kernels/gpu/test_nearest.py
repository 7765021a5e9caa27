"""The search for nearest codes as an operator, and what its programs need of a GPU, without one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stage1_tokenizer.kernels.gpu import nearest as fused
from stage1_tokenizer.quantizers import nearest
from stage1_tokenizer.quantizers.nearest import nearest_code
from tests.stage1_tokenizer.kernels.gpu.compiling import compiled, need_triton, recorded
from tests.stage1_tokenizer.kernels.gpu.test_group_norm import GPUS


class Counted(TorchDispatchMode):
    """Counts what a GPU would launch: operations that aren't views or allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        view = func.is_view or func.overloadpacket.__name__ in ("empty", "new_empty", "_unsafe_view", "split")
        self.launches += not view
        return func(*args, **(kwargs or {}))


def launched(search: Callable[[Tensor, Tensor], Tensor]) -> int:
    """For a step of imagenet256 at 16 pictures a GPU."""
    z_ND, code_KD = torch.empty(4096, 8, device="meta"), torch.empty(16384, 8, device="meta")
    with Counted() as counted:
        search(z_ND, code_KD)
    return counted.launches


def test_launches_are_few() -> None:
    assert launched(nearest.plain_search) <= 20
    with recorded(fused) as launches:
        fused.by_triton(torch.empty(4096, 8, device="meta"), torch.empty(16384, 8, device="meta"))
    assert len(launches) == fused.COST["vqloom::nearest_code"].launches == 3
    blocks, shares = next(launch.grid for launch in launches if launch.name == "search")
    assert blocks == 64 and 500 <= blocks * shares <= 1000


def test_the_operator_is_one_node_of_a_graph_and_gives_the_plain_codes() -> None:
    torch.manual_seed(0)
    z_ND, code_KD = torch.randn(50, 4), torch.randn(30, 4)
    assert torch.equal(fused._search(z_ND, code_KD), nearest_code(z_ND, code_KD))
    torch.library.opcheck(fused._search, (z_ND, code_KD), test_utils=("test_schema", "test_faketensor"))
    graphs: list[Any] = []

    def kept(graph: Any, inputs: Any) -> Any:
        graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    found = torch.compile(lambda z, code: nearest_code(z * 2, code) + 1, backend=kept, fullgraph=True)(z_ND, code_KD)
    assert torch.equal(found, nearest_code(z_ND * 2, code_KD) + 1)
    assert len(graphs) == 1 and torch.ops.vqloom.nearest_code.default in graphs[0]


@pytest.mark.parametrize("dim", [8, 256])
def test_programs_compile_for_gpus(dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within their shared memory, without spills, three blocks of the search on a processor; products are float32's."""
    need_triton()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with recorded(fused) as launches:
        fused.by_triton(torch.empty(4096, dim, device="meta"), torch.empty(16384, dim, device="meta"))
    for capability, launch in itertools.product(GPUS, launches):
        made = compiled(launch, capability)
        assert made.shared <= GPUS[capability] // 4, (launch.name, capability)
        assert made.spilled == 0, (launch.name, capability)
        assert made.registers <= 168, (launch.name, capability)
        if launch.name == "search":
            assert "FFMA" in made.code and not re.search(r"\b(HMMA|HGMMA|WGMMA)", made.code)
