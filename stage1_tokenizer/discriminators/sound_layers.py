"""What the discriminators of sounds share. Legend: B batch, C channels, T samples."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.verdict import Verdict
from stage1_tokenizer.discriminators.weight_norms import spectrally_normal
from stage1_tokenizer.layers.precision import at_least_float32

QUIET = 1e-4
"""Smallest peak that is scaled up as a whole (3 steps of 16 bits): a silent clip has no gradient without bound."""


def convolution2d(
    config: AdversarialConfig,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Conv2d:
    """A convolution with weight norm (with spectral_norm, that instead) that keeps the size but for its stride."""
    padding = ((kernel[0] - 1) * dilation[0] // 2, (kernel[1] - 1) * dilation[1] // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation)
    if config.spectral_norm:
        spectrally_normal(layer)
    else:
        weight_norm(layer)
    return layer


def leveled(x_BCT: Tensor, peak: float) -> Tensor:
    """Each channel without its mean and with this peak; as it is if `peak` is 0. At least float32."""
    x = at_least_float32(x_BCT)
    if not peak:
        return x
    x = x - x.mean(-1, keepdim=True)
    return x * (peak / x.abs().amax(-1, keepdim=True).clamp_min(QUIET))


class SoundDiscriminator(nn.Module):
    """Several parts that see the same samples: one for each period or window."""

    def __init__(self, peak: float, parts: Iterable[nn.Module]):
        """Samples get this `peak` first (`leveled`). Each part returns logits and a tuple of feature maps."""
        super().__init__()
        self.peak = peak
        self.parts = nn.ModuleList(parts)

    def forward(self, x_BCT: Tensor) -> Verdict:
        """Logits and features of all parts."""
        x = leveled(x_BCT, self.peak)
        logits, features = zip(*(part(x) for part in self.parts), strict=True)
        return Verdict(logits, features)
