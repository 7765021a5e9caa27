from tests.benchmarks.stand_ins import parts


class VectorQuantizer2(parts.Quantizer):
    def forward(self, z):
        latents, losses, idx = self.search(z)
        return latents, sum(losses), (None, None, idx)
