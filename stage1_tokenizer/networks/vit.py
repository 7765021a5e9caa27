"""Transformers on patches as encoder and decoder (backbone=vit): ViT-VQGAN, or TiTok with latent tokens.

A grid tokenizer (Yu et al. 2022, section 3) has one latent for each patch. With latent_tokens=N (Yu et al. 2024, TiTok,
section 3.2) the encoder reads patches and N learned tokens, of which only the tokens become latents; the decoder reads
those and a mask token for each patch. Submodules have TiTok's names:

    encoder   patch_embed  latent_tokens  conv_out         both   class_embedding  positional_embedding  ln_pre  ln_post
    decoder   decoder_embed  mask_token  ffn  conv_out            latent_token_positional_embedding  transformer.NUMBER
                                                                  .{ln_1,attn.{in_proj,out_proj},ln_2,mlp.{c_fc,c_proj}}

Legend: B batch, C channels, H W pixels, h w patches, M = h·w, N latent tokens, D latent channels, E width of a
transformer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.model import ModelConfig, TransformerConfig
from stage1_tokenizer.layers.convolution import depth_to_space
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.networks.base import PictureDecoder, refuse_odd_sizes


class Attention(nn.Module):
    """Self-attention over all tokens with several heads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, h_BNE: Tensor) -> Tensor:
        """Same shape."""
        q, k, v = self.in_proj(h_BNE).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU, linear; the hidden layer is four times as wide."""

    def __init__(self, width: int):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, h_BNE: Tensor) -> Tensor:
        """Same shape."""
        return self.c_proj(F.gelu(self.c_fc(h_BNE)))


class TransformerBlock(Recomputable):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), Mlp(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_BNE: Tensor) -> Tensor:
        """Same shape."""
        h_BNE = h_BNE + self.dropout(self.attn(self.ln_1(h_BNE)))
        return h_BNE + self.dropout(self.mlp(self.ln_2(h_BNE)))


class Transformer(nn.Module):
    """The base of encoder and decoder: positions, class token (only with latent tokens), blocks, norms."""

    sines_ME: Tensor | None
    inner_layer: int = 0
    inner: Tensor | None = None
    """Patches (B, M, E) after that block: PictureDecoder has both."""

    def __init__(self, config: ModelConfig, shape: TransformerConfig):
        super().__init__()
        self.config, width, tokens = config.vit, shape.width, config.latent_tokens
        side = self.config.size // self.config.patch
        self.width, self.trained = width, (side, side)
        self.class_embedding = _drawn(1, width) if tokens else None
        learned = self.config.positions == "learned"
        self.positional_embedding = _drawn(side * side + bool(tokens), width) if learned else None
        # A buffer, as a copy of what is computed in each step would wait for a GPU.
        self.register_buffer(
            "sines_ME", None if learned else sines(self.trained, self.trained, width), persistent=False
        )
        self.latent_token_positional_embedding = _drawn(tokens, width) if tokens else None
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        blocks = (TransformerBlock(width, shape.heads, config.dropout) for _ in range(shape.depth))
        self.transformer = nn.ModuleList(blocks)

    def mix(self, h_BME: Tensor, grid: Sequence[int], latents_BNE: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add positions to patches and latent tokens, if any, and run the blocks; returns both again."""
        first = 0
        if self.class_embedding is not None:
            first = 1
            h_BME = torch.cat([self.class_embedding.expand(len(h_BME), -1, -1).to(h_BME.dtype), h_BME], dim=1)
        h = h_BME + self._positions(tuple(grid), first).to(h_BME)
        if latents_BNE is not None and self.latent_token_positional_embedding is not None:
            h = torch.cat([h, latents_BNE + self.latent_token_positional_embedding], dim=1)
        h = self.ln_pre(h)
        for number, block in enumerate(self.transformer, 1):
            h = block(h)
            if number == self.inner_layer:
                self.inner = h[:, first : h_BME.shape[1]]
        h = self.ln_post(h)
        return h[:, first : h_BME.shape[1]], h[:, h_BME.shape[1] :]

    def _positions(self, grid: tuple[int, ...], first: int) -> Tensor:
        """Positions of class token and patches, (first + M, E), interpolated for grids other than the trained one.

        Learned positions are interpolated bicubically; sines are evaluated at evenly spaced points of the trained grid.
        """
        if self.positional_embedding is None:
            kept = self.sines_ME if grid == self.trained else None
            return F.pad(sines(grid, self.trained, self.width) if kept is None else kept, (0, 0, first, 0))
        if grid == self.trained:
            return self.positional_embedding
        places_1Ehw = self.positional_embedding.T.unflatten(1, self.trained)[None]
        return F.interpolate(places_1Ehw, size=grid, mode="bicubic").flatten(2)[0].T


def sines(grid: tuple[int, ...], trained: tuple[int, int], width: int) -> Tensor:
    """Sine and cosine of each patch's row and column at width/4 frequencies from 1 to 1/10000, (h·w, E) float32.

    Rows and columns count from 0 in the trained grid; the patches of another grid are spaced evenly within it.
    """
    at = [(torch.arange(size) + 0.5) * full / size - 0.5 for size, full in zip(grid, trained, strict=True)]
    frequency = 10000 ** -(torch.arange(width // 4) / (width // 4))
    row_hF, column_wF = (place[:, None] * frequency for place in at)
    row, column = row_hF[:, None].expand(*grid, -1), column_wF[None].expand(*grid, -1)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=2).flatten(0, 1)


def _drawn(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, width) * width**-0.5)


def _initialise(module: nn.Module) -> None:
    """As in TiTok: truncated normal weights of standard deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Encoder(Transformer):
    """Pictures to latents: one for each patch, or the latent tokens."""

    def __init__(self, config: ModelConfig):
        super().__init__(config, config.vit.encoder)
        patch, outputs = self.config.patch, config.encoder_channels
        self.patch_embed = nn.Conv2d(config.in_channels, self.width, patch, stride=patch)
        self.latent_tokens = _drawn(config.latent_tokens, self.width) if config.latent_tokens else None
        self.conv_out: nn.Module = nn.Linear(self.width, outputs)
        if self.config.head == "tanh":
            hidden = 4 * self.width
            self.conv_out = nn.Sequential(nn.Linear(self.width, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
        self.apply(_initialise)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, h, w), or (B, D, N) with latent tokens.

        ValueError if a side is not a multiple of the patch or, with latent tokens, not the trained size.
        """
        sizes = x_BCHW.shape[2:]
        refuse_odd_sizes(sizes, (self.config.patch,) * 2)
        h_BEhw = self.patch_embed(x_BCHW)
        grid, h_BME = h_BEhw.shape[2:], h_BEhw.flatten(2).transpose(1, 2)
        if self.latent_tokens is None:
            h_BME, _ = self.mix(h_BME, grid, None)
            return self.conv_out(h_BME).transpose(1, 2).unflatten(2, grid)
        if tuple(grid) != self.trained:
            raise ValueError(f"a picture of {tuple(sizes)} is not of model.vit.size={self.config.size}: resize it")
        _, latents_BNE = self.mix(h_BME, grid, self.latent_tokens.expand(len(h_BME), -1, -1).to(h_BME))
        return self.conv_out(latents_BNE).transpose(1, 2)


class Decoder(Transformer, PictureDecoder):
    """Latents to pictures."""

    def __init__(self, config: ModelConfig):
        super().__init__(config, config.vit.decoder)
        self.inner_channels = self.width
        channels, patch, hidden = config.in_channels, self.config.patch, 4 * self.width
        self.decoder_embed = nn.Linear(config.z_channels, self.width)
        self.mask_token = _drawn(1, self.width) if config.latent_tokens else None
        # The last layer: from pixels to pixels, or with head=tanh from a vector to its patch.
        if self.config.head == "tanh":
            self.ffn: nn.Module = nn.Sequential(nn.Linear(self.width, hidden), nn.Tanh())
            self.conv_out = nn.ConvTranspose2d(hidden, channels, patch, stride=patch)
        else:
            self.ffn = nn.Linear(self.width, patch * patch * channels)
            self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.apply(_initialise)

    def features(self, z_BDhw: Tensor) -> Tensor:
        """(B, D, h, w), or (B, D, N) with latent tokens, to the input of the last layer."""
        h_BME = self.decoder_embed(z_BDhw.flatten(2).transpose(1, 2))
        grid: Sequence[int] = z_BDhw.shape[2:]
        latents = None
        if self.mask_token is not None:
            grid, latents = self.trained, h_BME
            h_BME = self.mask_token.expand(len(latents), grid[0] * grid[1], -1).to(latents)
        h_BME, _ = self.mix(h_BME, grid, latents)
        h_BFhw = self.ffn(h_BME).transpose(1, 2).unflatten(2, tuple(grid))
        return h_BFhw if self.config.head == "tanh" else depth_to_space(h_BFhw, self.config.patch)
