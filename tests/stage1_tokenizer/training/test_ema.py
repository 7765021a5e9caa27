from __future__ import annotations

import torch

from stage1_tokenizer.training.trained import TokenizerEma
from tests.stage1_tokenizer import tiny


def test_averages_follow_the_formula():
    raw = tiny.tokenizer()
    ema = TokenizerEma(raw, 0.5)
    first = next(raw.parameters()).detach().clone()
    with torch.no_grad():
        for parameter in raw.parameters():
            parameter.add_(1)
    ema.update(0)  # decay min(0.5, 1/10)
    assert torch.allclose(next(ema.tokenizer.parameters()), first + 0.9)
    ema.update(1000)  # decay 0.5
    assert torch.allclose(next(ema.tokenizer.parameters()), first + 0.95)
    assert not ema.tokenizer.training and not any(p.requires_grad for p in ema.tokenizer.parameters())


def test_without_averaging_it_is_a_copy():
    raw = tiny.tokenizer().train()
    ema = TokenizerEma(raw, 0.0)
    raw(torch.rand(4, 1, 16, 16))
    with torch.no_grad():
        next(raw.parameters()).add_(1)
    ema.update(0)
    assert ema.tokenizer.fingerprint == raw.fingerprint
    assert torch.equal(
        ema.tokenizer.state_dict()["quantizer.statistics.used_K"], raw.state_dict()["quantizer.statistics.used_K"]
    )
