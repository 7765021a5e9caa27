from taming.modules.losses.lpips import LPIPS
from torch import nn


class VQLPIPSWithDiscriminator(nn.Module):
    def __init__(self, disc_start, disc_weight=1.0, disc_num_layers=3):
        super().__init__()
        self.discriminator_iter_start, self.weight = disc_start, disc_weight
        self.perceptual_loss = LPIPS()
        self.discriminator = nn.Sequential(*[nn.Conv2d(3, 3, 3) for _ in range(disc_num_layers)])

    def forward(self, codebook_loss, x, made, optimizer_idx, global_step, last_layer):
        on = float(global_step >= self.discriminator_iter_start)
        if optimizer_idx == 0:
            loss = (x - made).abs().mean() + self.perceptual_loss(x, made).mean() + codebook_loss
            return loss - on * self.weight * self.discriminator(made).mean() + 0 * last_layer.sum(), {}
        return on * (self.discriminator(made.detach()).mean() - self.discriminator(x).mean()), {}
