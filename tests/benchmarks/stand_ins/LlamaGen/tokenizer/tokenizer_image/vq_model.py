import torch

from tests.benchmarks.stand_ins import parts
from tests.benchmarks.stand_ins.parts import Decoder, Encoder

__all__ = ["Decoder", "Encoder", "VectorQuantizer"]


class VectorQuantizer(parts.Quantizer):
    def __init__(self, *given):
        super().__init__(*given)
        self.register_buffer("codebook_used", torch.zeros(8))

    def forward(self, z):
        latents, losses, idx = self.search(z)
        return latents, (*losses, 0.0, 0.0), (None, None, idx)
