from __future__ import annotations

import torch
from torch.nn import functional as F

from stage2_prior.priors.losses import code_losses


def test_smoothing_and_z_loss_are_the_formulas():
    logits_BNK = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    code_BN = torch.arange(10).view(2, 5) % 7
    loss_BN, nats_BN = code_losses(logits_BNK, code_BN, 0.0, 0.0)
    expected_BN = F.cross_entropy(logits_BNK.transpose(1, 2), code_BN, reduction="none")
    torch.testing.assert_close(loss_BN, expected_BN)
    torch.testing.assert_close(nats_BN, expected_BN)
    assert not nats_BN.requires_grad
    loss_BN, nats_BN = code_losses(logits_BNK, code_BN, 0.1, 0.01)
    smoothed_BN = F.cross_entropy(logits_BNK.transpose(1, 2), code_BN, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(loss_BN, smoothed_BN + 0.01 * logits_BNK.logsumexp(-1) ** 2)
    torch.testing.assert_close(nats_BN, expected_BN, msg="what is reported is the likelihood all the same")
