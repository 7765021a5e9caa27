"""3x3 convolutions on CPUs with a quarter of the products: Winograd's minimal filtering F(4x4, 3x3).

A tile of 4x4 outputs comes from 6x6 inputs d and a kernel g as Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, with 36 products instead of
144 (Lavin & Gray 2016, section 4.3). Over all channels, the elementwise product becomes 36 matrix products. The
relative error in float32 is 2e-6 (4e-7 for the plain sum). The work is split into pieces that fit the cache.
Legend: B batch, C channels (I in, O out), H W pixels, T tiles of a piece.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

LEAST_PIXELS = 512
"""With fewer pixels in a batch, transforming the weights costs more than is gained."""

PIECE, LEAST_TILES = 16384, 128
"""Tiles times channels of one piece, and its minimum number of tiles."""

_B = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_G = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # times 24
_A = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]

Transform = dict[torch.dtype, tuple[Tensor, Tensor]]
"""A matrix for both axes of a tile, by type: once, and repeated for each of its rows."""


def _in_both_types(rows: list[list[int]], divisor: float = 1.0, *, transposed: bool = False) -> Transform:
    matrix = torch.tensor(rows, dtype=torch.float64) / divisor
    matrix = (matrix.T if transposed else matrix).contiguous()
    kinds = {kind: matrix.to(kind) for kind in (torch.float32, torch.float64)}
    return {
        kind: (rows_mk, rows_mk.expand(len(rows_mk), *rows_mk.shape).contiguous()) for kind, rows_mk in kinds.items()
    }


FROM_INPUT = _in_both_types(_B)
"""Bᵀ (6 x 6)."""
FROM_KERNEL, FROM_FLIPPED = _in_both_types(_G, 24.0), _in_both_types([row[::-1] for row in _G], 24.0)
"""G (6 x 3), for kernels and for flipped kernels."""
TO_OUTPUT, FROM_OUTPUT = _in_both_types(_A), _in_both_types(_A, transposed=True)
"""Aᵀ (4 x 6), and its transpose for the backward pass."""
TO_KERNEL = _in_both_types(_G, 24.0, transposed=True)
"""Gᵀ (3 x 6), for the backward pass."""

_memory = threading.local()


def applies(x_BIHW: Tensor, weight_OIHW: Tensor, padding: int) -> bool:
    """Whether these functions support such a convolution, and are faster."""
    batch, _, height, width = x_BIHW.shape
    fits = weight_OIHW.shape[2:] == (3, 3) and padding == 1 and height % 4 == 0 and width % 4 == 0
    return fits and batch * height * width >= LEAST_PIXELS


def correlate(x_BIHW: Tensor, weight_OIHW: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of stride 1 and padding 1: (B, I, H, W) to (B, O, H, W), channels-last."""
    return filtered(x_BIHW, _kernel(weight_OIHW, FROM_KERNEL).transpose(1, 2), bias)


def input_gradient(grad_BOHW: Tensor, weight_OIHW: Tensor) -> Tensor:
    """Gradient of the input, (B, I, H, W): the convolution with the flipped kernel."""
    return filtered(grad_BOHW, _kernel(weight_OIHW, FROM_FLIPPED), None)


def _kernel(weight_OIHW: Tensor, transform: Transform) -> Tensor:
    """(O, I, 3, 3) transformed to (36, O, I)."""
    outputs, inputs = weight_OIHW.shape[:2]
    columns = weight_OIHW.permute(2, 3, 0, 1).reshape(9, -1)
    return _transformed(columns, transform, "kernel").view(36, outputs, inputs)


def _transformed(columns: Tensor, transform: Transform, name: str) -> Tensor:
    """M t Mᵀ of tiles as columns, (k·k, N) to (m·m, N), for an m x k matrix; in the scratch memory `name`."""
    matrix, repeated = transform[columns.dtype]
    size, taken = matrix.shape
    half = _scratch("half", size * taken * columns.shape[1], columns).view(size, -1)
    torch.mm(matrix, columns.reshape(taken, -1), out=half)
    result = _scratch(name, size * size * columns.shape[1], columns).view(size, size, -1)
    return torch.bmm(repeated, half.view(size, taken, -1), out=result).view(size * size, -1)


def kept_kernel(weight_OIHW: Tensor) -> Tensor:
    """The transformed kernel of a frozen weight, for `filtered`: (36, I, O), four times its size."""
    return _kernel(weight_OIHW, FROM_KERNEL).transpose(1, 2).clone(memory_format=torch.contiguous_format)


def filtered(x_BIHW: Tensor, kernel_36IO: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of stride 1 and padding 1 with a transformed kernel: (B, I, H, W) to (B, O, H, W)."""
    inputs, outputs = kernel_36IO.shape[1:]
    x_BHWI = x_BIHW.permute(0, 2, 3, 1)
    size = (len(x_BIHW), outputs, *x_BIHW.shape[2:])
    y_BOHW = torch.empty(size, dtype=x_BIHW.dtype, memory_format=torch.channels_last)
    for piece in _pieces(x_BIHW, max(inputs, outputs)):
        tiles = _input_tiles(x_BHWI, piece)
        products = _scratch("products", 36 * tiles.shape[1] * outputs, x_BIHW).view(36, -1, outputs)
        torch.bmm(tiles, kernel_36IO, out=products)
        result = _transformed(products.view(36, -1), TO_OUTPUT, "output")
        shown = _output_tiles(y_BOHW.permute(0, 2, 3, 1), piece)
        if bias is None:
            shown.copy_(result.view(shown.shape))
        else:
            torch.add(result.view(shown.shape), bias, out=shown)
    return y_BOHW


def weight_gradient(x_BIHW: Tensor, grad_BOHW: Tensor) -> Tensor:
    """Gradient of the weight, (O, I, 3, 3), from the input and the gradient of the output, both channels-last.

    That of the transformed kernel is (Bᵀ d B) · (A ∂Y Aᵀ), summed over tiles; Gᵀ maps it back to the kernel.
    """
    inputs, outputs = x_BIHW.shape[1], grad_BOHW.shape[1]
    x_BHWI, grad_BHWO = x_BIHW.permute(0, 2, 3, 1), grad_BOHW.permute(0, 2, 3, 1)
    total = _scratch("kernel", 36 * inputs * outputs, x_BIHW).view(36, inputs, outputs).zero_()
    for piece in _pieces(x_BIHW, max(inputs, outputs)):
        tiles = _input_tiles(x_BHWI, piece)
        shown = _output_tiles(grad_BHWO, piece)
        gathered = _scratch("output", shown.numel(), x_BIHW).view(shown.shape).copy_(shown)
        products = _transformed(gathered.view(16, -1), FROM_OUTPUT, "products")
        total.baddbmm_(tiles.transpose(1, 2), products.view(36, -1, outputs))
    gradient = _transformed(total.view(36, -1), TO_KERNEL, "products").clone()
    return gradient.view(3, 3, inputs, outputs).permute(3, 2, 0, 1)


def _pieces(x_BIHW: Tensor, channels: int) -> Iterator[tuple[int, int, int, int]]:
    """For each piece: first picture, number of pictures, first row of tiles, number of rows of tiles."""
    batch, rows, columns = len(x_BIHW), x_BIHW.shape[2] // 4, x_BIHW.shape[3] // 4
    tiles = max(PIECE // channels, LEAST_TILES)
    some_rows = min(rows, max(1, tiles // columns))
    pictures = max(1, tiles // (rows * columns))
    for picture in range(0, batch, pictures):
        for row in range(0, rows, some_rows):
            yield picture, min(pictures, batch - picture), row, min(some_rows, rows - row)


def _padded(x_BHWI: Tensor, piece: tuple[int, int, int, int]) -> Tensor:
    """The rows of a piece with a margin of 1, zero outside the picture: (pictures, 4·rows + 2, W + 2, I)."""
    picture, pictures, row, rows = piece
    height, width, inputs = x_BHWI.shape[1:]
    shape = (pictures, 4 * rows + 2, width + 2, inputs)
    padded = _scratch("padded", math.prod(shape), x_BHWI).view(shape)
    first, last = 4 * row - 1, 4 * (row + rows) + 1
    above, below = int(first < 0), int(last > height)
    padded[:, :, :: width + 1].zero_()
    if above:
        padded[:, 0].zero_()
    if below:
        padded[:, -1].zero_()
    known = x_BHWI[picture : picture + pictures, first + above : last - below]
    padded[:, above : shape[1] - below, 1:-1].copy_(known)
    return padded


def _input_tiles(x_BHWI: Tensor, piece: tuple[int, int, int, int]) -> Tensor:
    """The overlapping 6x6 tiles of a piece, transformed: (36, T, I)."""
    padded = _padded(x_BHWI, piece)
    _, pictures, _, rows = piece
    inputs, columns = x_BHWI.shape[3], x_BHWI.shape[2] // 4
    by_picture, by_row, by_column, _ = padded.stride()
    shape = (6, 6, pictures, rows, columns, inputs)
    overlapping = padded.as_strided(shape, (by_row, by_column, by_picture, 4 * by_row, 4 * by_column, 1))
    gathered = _scratch("input", overlapping.numel(), x_BHWI).view(shape).copy_(overlapping)
    return _transformed(gathered.view(36, -1), FROM_INPUT, "tiles").view(36, -1, inputs)


def _output_tiles(y_BHWO: Tensor, piece: tuple[int, int, int, int]) -> Tensor:
    """The 4x4 tiles of a piece as a view of the picture: (4, 4, pictures, rows, columns, O)."""
    picture, pictures, row, rows = piece
    columns, outputs = y_BHWO.shape[2] // 4, y_BHWO.shape[3]
    part = y_BHWO[picture : picture + pictures, 4 * row : 4 * (row + rows)]
    return part.view(pictures, rows, 4, columns, 4, outputs).permute(2, 4, 0, 1, 3, 5)


def _scratch(name: str, count: int, like: Tensor) -> Tensor:
    """Reused memory of this thread: allocating new pages costs more than the computation."""
    key = f"{name} {like.dtype}"
    kept: Tensor | None = getattr(_memory, key, None)
    if kept is None or kept.numel() < count:
        with torch.inference_mode(False):  # an inference tensor could not be used in training later
            kept = torch.empty(count, dtype=like.dtype, device=like.device)
        setattr(_memory, key, kept)
    return kept[:count]
