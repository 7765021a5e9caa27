"""LlamaGen's own transformer and `generate`, given our prior's weights; from a checkout that the user names.

Its rotary positions are two-dimensional, so that its codes differ from ours; shapes and work are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stage2_prior.config.model import FEED_FORWARD_MULTIPLE
from stage2_prior.priors.autoregressive import AutoregressivePrior


def llamagen_sampler(
    prior: AutoregressivePrior, token_B: Tensor, peer: Path, guidance: float
) -> dict[str, Callable[[], Tensor]]:
    """Its `generate`, plain and guided, for the classes of token_B."""
    checkout = peer / "LlamaGen"
    if not (checkout / "autoregressive" / "models" / "gpt.py").is_file():
        sys.exit(f"--peer {peer} holds no checkout LlamaGen/: clone FoundationVision/LlamaGen there")
    sys.path.insert(0, str(checkout))
    from autoregressive.models.generate import generate

    model = _transformer(prior).eval()
    label_B, positions = token_B - prior.source.codebook_size, prior.source.positions
    arguments = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "sample_logits": True}
    return {
        "llamagen": lambda: generate(model, label_B, positions, cfg_scale=1.0, **arguments),
        "llamagen, guided": lambda: generate(model, label_B, positions, cfg_scale=guidance, **arguments),
    }


def _transformer(prior: AutoregressivePrior) -> Any:
    from autoregressive.models.gpt import ModelArgs, Transformer

    ours, codes = prior.lm.config, prior.source.codebook_size
    model = Transformer(
        ModelArgs(
            dim=ours.hidden_size,
            n_layer=ours.num_hidden_layers,
            n_head=ours.num_attention_heads,
            multiple_of=FEED_FORWARD_MULTIPLE,
            norm_eps=ours.rms_norm_eps,
            num_classes=len(prior.vocabulary.classes),
            vocab_size=codes,
            block_size=prior.source.positions,
        )
    )
    embedding_VD = prior.lm.model.embed_tokens.weight
    pairs = [
        (model.tok_embeddings.weight, embedding_VD[:codes]),
        (model.cls_embedding.embedding_table.weight, embedding_VD[codes:]),
        (model.output.weight, prior.lm.lm_head.weight[:codes]),
        (model.norm.weight, prior.lm.model.norm.weight),
    ]
    for theirs, layer in zip(model.layers, prior.lm.model.layers, strict=True):
        attention, gated = layer.self_attn, layer.mlp
        joined = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        pairs += [
            (theirs.attention.wqkv.weight, joined),
            (theirs.attention.wo.weight, attention.o_proj.weight),
            (theirs.feed_forward.w1.weight, gated.gate_proj.weight),
            (theirs.feed_forward.w3.weight, gated.up_proj.weight),
            (theirs.feed_forward.w2.weight, gated.down_proj.weight),
            (theirs.attention_norm.weight, layer.input_layernorm.weight),
            (theirs.ffn_norm.weight, layer.post_attention_layernorm.weight),
        ]
    with torch.no_grad():
        for theirs_weight, weight in pairs:
            theirs_weight.copy_(weight)
    return model.to(embedding_VD.device, embedding_VD.dtype)
