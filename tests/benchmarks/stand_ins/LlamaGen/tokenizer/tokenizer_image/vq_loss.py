from tokenizer.tokenizer_image.lpips import LPIPS

from tests.benchmarks.stand_ins import parts


class VQLoss(parts.Loss):
    def __init__(self, disc_start, disc_weight, disc_adaptive_weight, disc_num_layers, reconstruction_loss):
        super().__init__(LPIPS(), disc_start, disc_weight, disc_num_layers)

    def forward(self, codebook_loss, x, made, optimizer_idx, global_step, last_layer=None, log_every=100):
        return self.of(sum(codebook_loss[:3]), x, made, optimizer_idx, global_step)
