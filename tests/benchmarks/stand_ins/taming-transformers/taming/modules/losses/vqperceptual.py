from taming.modules.losses.lpips import LPIPS

from tests.benchmarks.stand_ins import parts


class VQLPIPSWithDiscriminator(parts.Loss):
    def __init__(self, disc_start, disc_weight=1.0, disc_num_layers=3):
        super().__init__(LPIPS(), disc_start, disc_weight, disc_num_layers)

    def forward(self, codebook_loss, x, made, optimizer_idx, global_step, last_layer):
        return self.of(codebook_loss, x, made, optimizer_idx, global_step), {}
