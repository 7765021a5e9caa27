"""The loss of predicted codes. Shapes: B batch, N codes of a picture, K codes."""

from __future__ import annotations

from torch import Tensor


def code_losses(logits_BNK: Tensor, code_BN: Tensor, smoothing: float, z_weight: float) -> tuple[Tensor, Tensor]:
    """The training loss of each code, loss_BN, and its -ln p in nats, nats_BN without gradients; float32.

    loss = (1 - s)·(-ln p(code)) + s·mean over all codes of -ln p + z·ln²Z, with label smoothing s (Szegedy et al. 2016,
    section 7) and z_weight z (Chowdhery et al. 2022, section 5), ln Z the logits' log-sum-exp.
    """
    log_z_BN = logits_BNK.logsumexp(-1)
    nats_BN = log_z_BN - logits_BNK.gather(-1, code_BN[..., None])[..., 0]
    loss_BN = nats_BN
    if smoothing > 0:
        loss_BN = (1 - smoothing) * nats_BN + smoothing * (log_z_BN - logits_BNK.mean(-1))
    if z_weight > 0:
        loss_BN = loss_BN + z_weight * log_z_BN.square()
    return loss_BN, nats_BN.detach()
