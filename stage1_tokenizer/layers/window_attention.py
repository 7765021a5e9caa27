"""Transformer blocks over time that attend to a window of the past, as in Mimi (Défossez et al. 2024, section 3.3).

Legend: B batch, T positions, E width, H heads, D channels of a head, W window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.layers.waveform import Past

THETA, SCALE = 10000.0, 0.01
"""Base of the rotary positions' wavelengths; first value of the factors on what a block adds."""


class WindowAttention(nn.Module):
    """Each position attends to itself and the W − 1 before it, with rotary positions (Su et al. 2021)."""

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window = heads, window
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, h_BTE: Tensor, past: Past | None = None) -> Tensor:
        """Same shape."""
        parts = (layer(h_BTE).unflatten(2, (self.heads, -1)) for layer in (self.q, self.k, self.v))
        q_BHTD, k_BHTD, v_BHTD = (part_BTHD.transpose(1, 2) for part_BTHD in parts)
        first = kept = 0
        if past is not None:
            kept = self.window - 1
            empty = k_BHTD.new_zeros(*k_BHTD.shape[:2], kept, k_BHTD.shape[3])
            first, k_before, v_before = past.get(self, (0, empty, empty))
        q_BHTD, k_BHTD = rotated(q_BHTD, first), rotated(k_BHTD, first)
        if past is not None:
            k_BHTD, v_BHTD = torch.cat([k_before, k_BHTD], dim=2), torch.cat([v_before, v_BHTD], dim=2)
            end = k_BHTD.shape[2]
            past[self] = (first + h_BTE.shape[1], k_BHTD[:, :, end - kept :], v_BHTD[:, :, end - kept :])
        at_T = torch.arange(first, first + h_BTE.shape[1], device=h_BTE.device)[:, None]
        of_S = torch.arange(first - kept, first + h_BTE.shape[1], device=h_BTE.device)
        seen_TS = (of_S >= 0) & (of_S <= at_T) & (of_S > at_T - self.window)
        mixed_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=seen_TS)
        return self.out(mixed_BHTD.transpose(1, 2).flatten(2))


class WindowBlock(Recomputable):
    """x + s·attention(norm(x)), then x + s·mlp(norm(x)), with learned factors s for each channel."""

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, window)
        self.fc1 = nn.Linear(width, 4 * width, bias=False)
        self.fc2 = nn.Linear(4 * width, width, bias=False)
        self.scale1 = nn.Parameter(torch.full((width,), SCALE))
        self.scale2 = nn.Parameter(torch.full((width,), SCALE))

    def forward(self, h_BTE: Tensor, past: Past | None = None) -> Tensor:
        """Same shape."""
        h_BTE = h_BTE + self.scale1 * self.attention(self.norm1(h_BTE), past)
        return h_BTE + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(h_BTE))))


class WindowTransformer(nn.Module):
    """Blocks over the frames of a sound."""

    def __init__(self, width: int, layers: int, heads: int, window: int):
        super().__init__()
        self.blocks = nn.ModuleList(WindowBlock(width, heads, window) for _ in range(layers))

    def forward(self, h_BET: Tensor, past: Past | None = None) -> Tensor:
        """Same shape, (B, E, T)."""
        h_BTE = h_BET.mT
        for block in self.blocks:
            h_BTE = block(h_BTE, past)
        return h_BTE.mT


def rotated(h_BHTD: Tensor, first: int) -> Tensor:
    """Pairs (d, d + D/2) of channels turned by their position times a frequency; `first` is the first position."""
    half, kind = h_BHTD.shape[-1] // 2, h_BHTD.dtype
    frequency_d = THETA ** -(torch.arange(half, device=h_BHTD.device, dtype=torch.float32) / half)
    at_T = torch.arange(first, first + h_BHTD.shape[2], device=h_BHTD.device, dtype=torch.float32)
    angle_Td = at_T[:, None] * frequency_d
    cos_Td, sin_Td = angle_Td.cos().to(kind), angle_Td.sin().to(kind)
    a, b = h_BHTD[..., :half], h_BHTD[..., half:]
    return torch.cat([a * cos_Td - b * sin_Td, b * cos_Td + a * sin_Td], dim=-1)
