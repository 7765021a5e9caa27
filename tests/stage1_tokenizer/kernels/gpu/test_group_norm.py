"""How the work of group normalization is split, and what its programs need of a GPU, without one."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stage1_tokenizer.kernels.gpu import group_norm as fused
from stage1_tokenizer.kernels.gpu.group_norm import FusedNorm
from stage1_tokenizer.kernels.gpu.splitting import plan
from stage1_tokenizer.layers.norm import Norm
from tests.stage1_tokenizer.kernels.gpu.compiling import Compiled, Launch, compiled, need_triton, recorded

GPUS = {80: 163 << 10, 90: 227 << 10}
"""Compute capability and bytes of shared memory of a block: A100 and H100."""

SHAPES = [(16, 128, 256, 256), (32, 512, 16, 16), (4, 96, 33, 17), (1, 32, 5, 64, 64), (3, 8, 1000), (2, 64, 1, 1)]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_cover_every_row_once(shape: tuple[int, ...], last: bool) -> None:
    batch, channels, *grid = shape
    positions = torch.Size(grid).numel()
    for groups in (8, channels):
        split = plan(batch, channels, positions, groups, last=last)
        rows, group_block, padded = (split.shape[name] for name in ("rows", "group_block", "padded"))
        assert split.blocks * group_block >= groups > (split.blocks - 1) * group_block
        assert padded >= channels // groups > padded // 2
        assert 1 <= split.warps <= 8 and rows * group_block * padded <= 8192
        for parts, part_rows in ((split.chunks, split.chunk_rows), (split.parts, split.part_rows)):
            assert (parts - 1) * part_rows < positions <= parts * part_rows
            assert part_rows % rows == 0
        if split.whole:
            assert rows >= positions
        assert split.chunks <= 128


def test_offsets_are_64_bits_wide_where_32_are_too_few() -> None:
    for positions, wide in (((1 << 24) - 1, False), (1 << 24, True)):
        assert plan(1, 128, positions, 32, last=True).shape["wide"] is wide


def test_the_split_of_a_picture_at_256_px() -> None:
    """Bound by memory: enough programs for 132 processors, and few chunks, which each program of the output reads."""
    split = plan(16, 128, 256 * 256, 32, last=True)
    assert not split.whole and split.blocks == 1 and split.chunks == 64 and split.parts == 128


def test_inputs_that_are_not_supported_are_torchs() -> None:
    norm, plain = FusedNorm(32), Norm(32)
    x_BCN = torch.randn(2, 32, 4, 4)
    assert torch.equal(norm(x_BCN), plain(x_BCN))
    assert "Silu" in norm(x_BCN).grad_fn.name()
    assert not fused.takes(x_BCN)


def launches(shape: tuple[int, ...], kind: torch.dtype, *, last: bool, groups: int = 32) -> list[Launch]:
    """Forward and backward of an input."""
    x_BCN = torch.empty(shape[0], *shape[2:], shape[1], dtype=kind, device="meta").movedim(-1, 1)
    x_BCN = x_BCN if last else torch.empty(shape, dtype=kind, device="meta")
    weight_C: Tensor = torch.empty(shape[1], device="meta")
    with recorded(fused) as found:
        result = fused._forward._init_fn(x_BCN, weight_C, weight_C, groups, 1e-6, True)
        fused._backward._init_fn(result[0], x_BCN, weight_C, weight_C, *result[1:], groups, 1e-6, True)
    return found


RECIPES = [
    pytest.param((16, 128, 256, 256), torch.bfloat16, True, 32, id="imagenet256"),
    pytest.param((16, 512, 16, 16), torch.bfloat16, True, 32, id="latents"),
    pytest.param((32, 64, 32, 32), torch.float32, False, 32, id="channels-first"),
]


@pytest.mark.parametrize(("shape", "kind", "last", "groups"), RECIPES)
def test_programs_compile_for_gpus(
    shape: tuple[int, ...], kind: torch.dtype, last: bool, groups: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within their shared memory, without spills, with several blocks on a processor, and with loads of 16 bytes."""
    need_triton()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for capability, launch in itertools.product(GPUS, launches(shape, kind, last=last, groups=groups)):
        made = compiled(launch, capability)
        assert made.shared <= GPUS[capability] // 4, (launch.name, capability)
        assert made.spilled == 0, (launch.name, capability)
        assert made.registers <= 128, (launch.name, capability)
        assert reads_16_bytes(made), (launch.name, capability)


def reads_16_bytes(made: Compiled) -> bool:
    return "LDG.E.128" in made.code


def test_a_program_that_needs_too_much_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_triton()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launch = launches((16, 128, 64, 64), torch.bfloat16, last=True)[2]
    assert launch.name == "sums"
    spilling = launch._replace(named=launch.named | {"num_warps": 1})
    assert compiled(spilling, 90).spilled > 0
