"""What both stand-ins are made of."""

import torch
import torchvision
from torch import nn


class Encoder(nn.Sequential):
    def __init__(self, *, ch, ch_mult, z_channels, in_channels=3, **_):
        strided = [layer for _ in ch_mult[1:] for layer in (nn.Conv2d(ch, ch, 4, 2, 1), nn.SiLU())]
        super().__init__(nn.Conv2d(in_channels, ch, 3, padding=1), *strided, nn.Conv2d(ch, z_channels, 1))


class Decoder(nn.Module):
    def __init__(self, *, ch, ch_mult, z_channels, out_ch=3, **_):
        super().__init__()
        strided = [layer for _ in ch_mult[1:] for layer in (nn.ConvTranspose2d(ch, ch, 4, 2, 1), nn.SiLU())]
        self.body = nn.Sequential(nn.Conv2d(z_channels, ch, 1), *strided)
        self.conv_out = nn.Conv2d(ch, out_ch, 3, padding=1)

    @property
    def last_layer(self):
        return self.conv_out.weight

    def forward(self, z):
        return self.conv_out(self.body(z))


class Quantizer(nn.Module):
    def __init__(self, n_e, e_dim, beta, *_):
        super().__init__()
        self.embedding, self.beta = nn.Embedding(n_e, e_dim), beta

    def search(self, z):
        """Latents with a straight-through gradient, both losses, and the codes."""
        rows = z.movedim(1, -1).flatten(0, -2)
        idx = torch.cdist(rows, self.embedding.weight).argmin(1)
        found = self.embedding(idx).view(z.movedim(1, -1).shape).movedim(-1, 1)
        codebook, commitment = ((found - z.detach()) ** 2).mean(), self.beta * ((found.detach() - z) ** 2).mean()
        return z + (found - z).detach(), (codebook, commitment), idx

    def get_codebook_entry(self, indices, shape):
        return self.embedding(indices)


class LPIPS(nn.Module):
    """The layers that the benchmarks fill with LPIPS' weights; the distance is of the first ones' features."""

    def __init__(self):
        super().__init__()
        self.net = torchvision.models.vgg16().features
        for number, width in enumerate((64, 128, 256, 512, 512)):
            head = nn.Module()
            head.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))
            setattr(self, f"lin{number}", head)

    def forward(self, x, y):
        return ((self.net[0](x) - self.net[0](y)) ** 2 * self.lin0.model[-1].weight).sum(1).mean()


class Loss(nn.Module):
    def __init__(self, lpips, disc_start, disc_weight, disc_num_layers):
        super().__init__()
        self.discriminator_iter_start, self.weight = disc_start, disc_weight
        self.perceptual_loss = lpips
        self.discriminator = nn.Sequential(*[nn.Conv2d(3, 3, 3) for _ in range(disc_num_layers)])

    def of(self, codebook_loss, x, made, optimizer_idx, global_step):
        on = float(global_step >= self.discriminator_iter_start)
        if optimizer_idx == 0:
            loss = ((x - made) ** 2).mean() + self.perceptual_loss(x, made) + codebook_loss
            return loss - on * self.weight * self.discriminator(made).mean()
        return on * (self.discriminator(made.detach()).mean() - self.discriminator(x).mean())
