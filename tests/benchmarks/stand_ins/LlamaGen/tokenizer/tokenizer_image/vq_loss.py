from tokenizer.tokenizer_image.lpips import LPIPS
from torch import nn


class VQLoss(nn.Module):
    def __init__(self, disc_start, disc_weight, disc_adaptive_weight, disc_num_layers, reconstruction_loss):
        super().__init__()
        self.discriminator_iter_start, self.weight = disc_start, disc_weight
        self.perceptual_loss = LPIPS()
        self.discriminator = nn.Sequential(*[nn.Conv2d(3, 3, 3) for _ in range(disc_num_layers)])

    def forward(self, codebook_loss, x, made, optimizer_idx, global_step, last_layer=None, log_every=100):
        on = float(global_step >= self.discriminator_iter_start)
        if optimizer_idx == 0:
            loss = ((x - made) ** 2).mean() + self.perceptual_loss(x, made) + sum(codebook_loss[:3])
            return loss - on * self.weight * self.discriminator(made).mean()
        return on * (self.discriminator(made.detach()).mean() - self.discriminator(x).mean())
