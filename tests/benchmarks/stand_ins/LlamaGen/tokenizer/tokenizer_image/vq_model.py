import torch
from torch import nn


class Encoder(nn.Sequential):
    def __init__(self, *, ch, ch_mult, z_channels, num_res_blocks):
        strided = [layer for _ in ch_mult[1:] for layer in (nn.Conv2d(ch, ch, 4, 2, 1), nn.SiLU())]
        super().__init__(nn.Conv2d(3, ch, 3, padding=1), *strided, nn.Conv2d(ch, z_channels, 1))


class Decoder(nn.Module):
    def __init__(self, *, ch, ch_mult, z_channels, num_res_blocks):
        super().__init__()
        strided = [layer for _ in ch_mult[1:] for layer in (nn.ConvTranspose2d(ch, ch, 4, 2, 1), nn.SiLU())]
        self.body = nn.Sequential(nn.Conv2d(z_channels, ch, 1), *strided)
        self.conv_out = nn.Conv2d(ch, 3, 3, padding=1)

    @property
    def last_layer(self):
        return self.conv_out.weight

    def forward(self, z):
        return self.conv_out(self.body(z))


class VectorQuantizer(nn.Module):
    def __init__(self, n_e, e_dim, beta, entropy_loss_ratio, l2_norm, show_usage):
        super().__init__()
        self.embedding, self.beta = nn.Embedding(n_e, e_dim), beta
        self.register_buffer("codebook_used", torch.zeros(8))

    def forward(self, z):
        rows = z.movedim(1, -1).flatten(0, -2)
        idx = torch.cdist(rows, self.embedding.weight).argmin(1)
        found = self.embedding(idx).view(z.movedim(1, -1).shape).movedim(-1, 1)
        first, second = ((found - z.detach()) ** 2).mean(), self.beta * ((found.detach() - z) ** 2).mean()
        return z + (found - z).detach(), (first, second, 0.0, 0.0), (None, None, idx)

    def get_codebook_entry(self, indices, shape):
        return self.embedding(indices)
