"""Stage one's networks through torch.compile: each is one graph, the whole generator with its quantizer too.

What Python does in a step stays outside: a quantizer's `begin`. The step that chooses the first codes isn't compiled,
as it comes once; the steps that revive codes are a second graph.

Legend: B batch, C channels, H W pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch._functorch.config as functorch
from torch import Tensor, nn

import stage1_tokenizer.layers.exact  # noqa: F401  # products that stay IEEE in compiled graphs
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.losses.term import Term
from stage1_tokenizer.tokenizer.codec import Reconstruction
from stage1_tokenizer.tokenizer.model import Tokenizer


def compile_networks(
    tokenizer: Tokenizer,
    discriminators: Sequence[nn.Module],
    terms: Sequence[Term] = (),
    *,
    in_parts: bool = False,
    blocks: bool = False,
    backend: str = "inductor",
) -> None:
    """Compile the generator, the discriminators and the terms' LPIPS, at their first calls.

    `in_parts` is for data.micro_batch: encoder and decoder are then compiled alone, once for all parts of a batch.
    `blocks` is for run.strategy=fsdp2, which gathers weights between blocks: each is then compiled for itself.
    """
    functorch.donated_buffer = False  # the step goes back through a discriminator twice
    if blocks:
        for part in tokenizer.modules():
            if isinstance(part, Recomputable):
                part.compile(backend=backend)
    elif in_parts:
        tokenizer.encoder.compile(backend=backend)
        features = torch.compile(tokenizer.decoder.features, backend=backend)
        tokenizer.decoder.features = features  # type: ignore[method-assign, assignment]
    else:
        _compile_whole(tokenizer, backend)
    networks = [part for term in terms for part in term.modules() if isinstance(part, LPIPS)]
    for network in (*discriminators, *networks):
        network.compile(backend=backend)


def _compile_whole(tokenizer: Tokenizer, backend: str) -> None:
    plain, quantizer = tokenizer.forward, tokenizer.quantizer
    compiled = torch.compile(plain, backend=backend)
    quantizer.led = True

    def forward(x_BCHW: Tensor, *others: Any) -> Reconstruction:
        if quantizer.training:
            quantizer.begin(len(x_BCHW) * math.prod(tokenizer.grid(x_BCHW.shape[2:])))
            if quantizer.starting:
                return plain(x_BCHW, *others)
        return compiled(x_BCHW, *others)

    tokenizer.forward = forward  # type: ignore[method-assign, assignment]
