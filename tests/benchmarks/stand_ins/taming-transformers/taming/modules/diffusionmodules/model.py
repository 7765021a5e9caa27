from torch import nn


class Encoder(nn.Sequential):
    def __init__(self, *, ch, ch_mult, in_channels, z_channels, **_):
        strided = [layer for _ in ch_mult[1:] for layer in (nn.Conv2d(ch, ch, 4, 2, 1), nn.SiLU())]
        super().__init__(nn.Conv2d(in_channels, ch, 3, padding=1), *strided, nn.Conv2d(ch, z_channels, 1))


class Decoder(nn.Module):
    def __init__(self, *, ch, ch_mult, out_ch, z_channels, **_):
        super().__init__()
        strided = [layer for _ in ch_mult[1:] for layer in (nn.ConvTranspose2d(ch, ch, 4, 2, 1), nn.SiLU())]
        self.body = nn.Sequential(nn.Conv2d(z_channels, ch, 1), *strided)
        self.conv_out = nn.Conv2d(ch, out_ch, 3, padding=1)

    def forward(self, z):
        return self.conv_out(self.body(z))
