"""The unified prior's losses: packed or not, by kinds, on every stock architecture, against plain references."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from launch.command.cli import UserError
from stage2_prior.codes.unified import Packed
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors import documents as of_documents
from stage2_prior.priors.documents import Documents, bounds
from stage2_prior.priors.fused import install
from stage2_prior.priors.unified import Balance, UnifiedPrior
from stage2_prior.unified.packing import pack
from stage2_prior.unified.segments import Document, MediaSegment, TextSegment, directed, layout
from tests.stage2_prior.unified.tiny import vocabulary

KNOWN = vocabulary()


def tiny_unified(seed: int = 0, spread: float = 6.0, **settings: Any) -> UnifiedPrior:
    torch.manual_seed(seed)
    config = PriorModelConfig(**{"kind": "unified", "layers": 2, "width": 32, "heads": 4} | settings)  # type: ignore[arg-type]
    prior = UnifiedPrior.fresh(config, KNOWN, 40).eval()
    with torch.no_grad():
        for weight in prior.parameters():
            if weight.ndim == 2:
                weight.mul_(spread)
    return prior


def documents() -> list[Document]:
    """A picture drawn of a text, one described, a text, and a sound without a text."""
    random = np.random.default_rng(0)
    picture, sound = KNOWN.blocks
    codes = random.integers(24, size=(3, 4))
    both = [TextSegment.of(KNOWN, "abc"), MediaSegment(picture, codes)]
    return [
        layout(KNOWN, directed(both, "text_to_media")),
        layout(KNOWN, directed(both, "media_to_text")),
        layout(KNOWN, [TextSegment.of(KNOWN, "a text")]),
        layout(KNOWN, [MediaSegment(sound, random.integers(8, size=(2, 5)))]),
    ]


def losses(prior: UnifiedPrior, packed: Packed, weight_K: Tensor) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = prior(packed.token_BT, packed.document_BT, packed.kind_BT, weight_K)
    return found


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "olmo2"])
def test_packed_rows_give_the_losses_and_gradients_of_documents_alone(architecture: Any) -> None:
    prior = tiny_unified(architecture=architecture, z_loss=1e-3)
    weight_K = torch.linspace(0.01, 0.02, len(KNOWN.kinds))
    found = []
    for apart in (False, True):
        packed = pack(documents(), 40, KNOWN.end, apart=apart)
        loss, nats_K = losses(prior, packed, weight_K)
        found.append((loss, nats_K, torch.autograd.grad(loss, list(prior.parameters()))))
    assert len(pack(documents(), 40, KNOWN.end).token_BT) == 2, "several to a row"
    (loss, nats_K, grads), (alone, nats_alone_K, grads_alone) = found
    torch.testing.assert_close(loss, alone, atol=0, rtol=1e-6)
    torch.testing.assert_close(nats_K, nats_alone_K, atol=0, rtol=1e-6)
    for one, other in zip(grads, grads_alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6 * max(1, float(other.abs().max())), rtol=1e-5)


def test_the_loss_is_the_weighted_sum_of_each_kinds_mean_by_the_stock_model() -> None:
    prior, packed = tiny_unified(), pack(documents(), 40, KNOWN.end, apart=True)
    sums, counts = dict.fromkeys(KNOWN.kinds, 0.0), dict.fromkeys(KNOWN.kinds, 0)
    for document in documents():
        token_T = torch.from_numpy(document.token_T)
        log_p_TV = prior.lm(token_T[None]).logits[0].detach().double().log_softmax(-1)
        for t, kind in enumerate(document.kind_T.tolist()):
            if kind >= 0:
                name = list(KNOWN.kinds)[kind]
                sums[name] -= float(log_p_TV[t - 1, token_T[t]])
                counts[name] += 1
    weights = {"picture": 0.5, "sound": 3.0}
    expected = sum(weights.get(name, 1.0) * sums[name] / counts[name] for name in KNOWN.kinds)
    balance = Balance(KNOWN.kinds, weights, normalised=False)
    loss, nats_K = losses(prior, packed, balance.weights(torch.tensor([float(n) for n in counts.values()])))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert nats_K.tolist() == pytest.approx(list(sums.values()), rel=1e-5)
    assert counts == {"text": 3 + 1 + 6 + 1, "marks": 3 + 3, "picture": 12, "sound": 10}
    nats_BT, _ = prior.score(packed.token_BT, packed.document_BT)
    assert float((nats_BT * (packed.kind_BT >= 0)).sum()) == pytest.approx(sum(sums.values()), rel=1e-5)


def test_losses_are_divided_by_their_running_root_mean_square() -> None:
    balance = Balance({"text": 100, "picture": 16}, {"picture": 2.0}, normalised=True)
    count_K = torch.tensor([10.0, 0.0])
    expected = [1 / math.log(100) / 10, 2 / math.log(16)]
    assert balance.weights(count_K).tolist() == pytest.approx(expected), "at first those of a uniform guess"
    balance.update(torch.tensor([3.0, 0.0]), count_K)
    balance.update(torch.tensor([math.nan, math.nan]), torch.tensor([1.0, 1.0]))
    square = 0.99 * math.log(100) ** 2 + 0.01 * 9
    assert balance.square_K.tolist() == pytest.approx([square, math.log(16) ** 2]), "none of the kind, none to take in"
    other = Balance({"text": 100, "picture": 16}, {}, normalised=True)
    other.load_state_dict(balance.state_dict())
    assert torch.equal(other.square_K, balance.square_K)
    with pytest.raises(UserError, match="loss_weights has film, but the kinds of tokens are text, marks, picture"):
        tiny_unified(loss_weights={"film": 1.0})


def test_on_gpus_documents_take_the_kernel_for_several_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel is told, tried with one of plain products, in bfloat16."""
    calls: list[list[int]] = []

    def of_lengths(
        q_XHd: Tensor, k_XHd: Tensor, v_XHd: Tensor, bound: Tensor, _: Tensor, *most: int, **how: Any
    ) -> Tensor:
        assert how["window_size"] == (-1, 0) and max(most) >= int(bound.diff().max())
        calls.append(bound.tolist())
        parts = []
        for first, stop in zip(bound[:-1].tolist(), bound[1:].tolist(), strict=True):
            q, k, v = (x_XHd[first:stop].transpose(0, 1) for x_XHd in (q_XHd, k_XHd, v_XHd))
            y = F.scaled_dot_product_attention(
                q[None], k[None], v[None], is_causal=True, scale=how["scale"], enable_gqa=how["enable_gqa"]
            )
            parts.append(y[0].transpose(0, 1))
        return torch.cat(parts)

    monkeypatch.setattr(of_documents, "varlen_attn", of_lengths)
    prior, packed = tiny_unified(key_value_heads=2, spread=3.0), pack(documents(), 40, KNOWN.end)
    install(prior, torch.device("cuda"))
    weight_K = torch.ones(len(KNOWN.kinds))
    rows = packed.token_BT, packed.document_BT, packed.kind_BT, weight_K
    exact = prior(*rows)[0]
    torch.testing.assert_close(exact, losses(tiny_unified(key_value_heads=2, spread=3.0), packed, weight_K)[0])
    bound_X = bounds(packed.document_BT)
    prior.bfloat16()
    masked, told = prior(*rows)[0], prior(*rows, bound_X)[0]
    assert calls == [bound_X.tolist()] * 2, "once a layer"
    torch.testing.assert_close(told, masked, rtol=2e-2, atol=0)
    lengths = bound_X.diff().tolist()
    assert sum(lengths) == packed.token_BT.numel() and len(lengths) == len(documents()) + 2
    assert Documents(packed.document_BT).at_BT.max() == max(lengths) - 1
