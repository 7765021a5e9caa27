"""The training steps of taming-transformers and LlamaGen, from checkouts of them, on our weights.

Only what they compute is taken: their networks, quantizers, losses and discriminators, in the order of their own
training loops, without optimizers, loggers and launchers. Their LPIPS gets our weights and stays in evaluation mode.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn

from stage1_tokenizer.config.training import ModelConfig
from stage1_tokenizer.discriminators import Discriminator
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.tokenizer.model import Tokenizer


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Import from a checkout; `requests`, with which it would download weights, may be absent."""
    sys.path.insert(0, str(folder))
    added = "requests" not in sys.modules
    if added:
        sys.modules["requests"] = types.ModuleType("requests")
    original = torchvision.models.vgg16
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    torchvision.models.vgg16 = lambda **_: types.SimpleNamespace(features=layers)  # give_lpips fills them
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        torchvision.models.vgg16 = original
        if added:
            del sys.modules["requests"]


def give_lpips(theirs: nn.Module, ours: LPIPS) -> None:
    """Put our trunk and heads into their LPIPS."""
    convolutions = [part for part in theirs.net.modules() if isinstance(part, nn.Conv2d)]
    for number, conv in enumerate(convolutions):
        conv.weight.data.copy_(ours.layers[number].weight)
        conv.bias.data.copy_(ours.layers[number].bias)
    for number in range(5):
        getattr(theirs, f"lin{number}").model[-1].weight.data.view(-1).copy_(getattr(ours, f"head{number}"))
    theirs.eval().requires_grad_(False)


def llamagen_name(name: str, levels: int) -> str:
    """Our name of a weight as LlamaGen's."""
    name = re.sub(r"encoder\.down\.(\d+)\.block", r"encoder.conv_blocks.\1.res", name)
    name = re.sub(r"encoder\.down\.(\d+)\.", r"encoder.conv_blocks.\1.", name)
    name = re.sub(r"decoder\.up\.(\d+)\.block", r"decoder.up.\1.res", name)
    name = re.sub(r"decoder\.up\.(\d+)\.", lambda found: f"decoder.conv_blocks.{levels - 1 - int(found[1])}.", name)
    return name.replace("mid.block_1", "mid.0").replace("mid.attn_1", "mid.1").replace("mid.block_2", "mid.2")


class Peer:
    """A peer's networks with our weights, and its step. `parameters` map our names to its own."""

    def __init__(self, model: nn.Module, loss: nn.Module, rename: Callable[[str], str]):
        self.model, self.loss, self.rename = model.train(), loss, rename

    def take(self, generator: Tokenizer, discriminator: Discriminator, lpips: LPIPS) -> None:
        """Copy our weights."""
        mine = {self.rename(name): value for name, value in generator.weights().items()}
        theirs = {name: value for name, value in self.model.state_dict().items() if "codebook_used" not in name}
        missing = set(theirs) ^ set(mine)
        assert not missing, f"weights without a partner: {sorted(missing)[:4]}"
        self.model.load_state_dict(mine, strict=False)
        self.loss.discriminator.load_state_dict(discriminator.state_dict(), strict=False)
        self.loss.discriminator.train()
        give_lpips(self.loss.perceptual_loss, lpips)

    def gradients(self, generator: Tokenizer) -> list[tuple[Tensor, Tensor]]:
        """Our gradients beside its own."""
        theirs = dict(self.model.named_parameters())
        pairs = [(ours.grad, theirs[self.rename(name)].grad) for name, ours in generator.named_parameters()]
        return [(one, other) for one, other in pairs if one is not None and other is not None]

    def losses(self, x: Tensor, number: int) -> Iterator[tuple[int, Tensor]]:
        """The losses of one batch in the order of their training: (0, the tokenizer's), (1, the discriminator's).

        Each is backpropagated before the next is taken. `number` is the training's step, from 1.
        """
        raise NotImplementedError

    def step(self, x: Tensor) -> None:
        """The gradients of both for one batch."""
        for turn, loss in self.losses(x, 1):
            if turn == 1:
                self.loss.discriminator.zero_grad()
            loss.backward()

    def clear(self) -> None:
        """Drop all gradients."""
        self.model.zero_grad()
        self.loss.discriminator.zero_grad()


def quantizer_name(name: str) -> str:
    """Our codebook's name as theirs."""
    return name.replace("quantizer.embedding", "quantize.embedding")


class _Assembled(nn.Module):
    """Encoder, quantizer and decoder in the order of both peers' VQModel.forward."""

    def __init__(self, encoder: nn.Module, quantize: nn.Module, decoder: nn.Module, config: ModelConfig):
        super().__init__()
        self.encoder, self.quantize, self.decoder = encoder, quantize, decoder
        self.quant_conv = nn.Conv2d(config.z_channels, config.quantizer.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.quantizer.code_dim, config.z_channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        quant, loss, _ = self.quantize(self.quant_conv(self.encoder(x)))
        return self.decoder(self.post_quant_conv(quant)), loss


class Taming(Peer):
    """taming-transformers: two training_step calls a batch, the other network's parameters frozen in each."""

    def __init__(self, folder: Path, config: ModelConfig, size: int, weight: float, layers: int = 3):
        with importable(folder):
            from taming.modules.diffusionmodules.model import Decoder, Encoder
            from taming.modules.losses import lpips, vqperceptual
            from taming.modules.vqvae.quantize import VectorQuantizer2

            lpips.LPIPS.load_from_pretrained = lambda *_: None
            loss = vqperceptual.VQLPIPSWithDiscriminator(0, disc_weight=weight, disc_num_layers=layers)
        networks = {
            "ch": config.channels, "out_ch": 3, "ch_mult": config.channel_multipliers,
            "num_res_blocks": config.res_blocks, "attn_resolutions": [size // config.stride[0]], "in_channels": 3,
            "resolution": size, "z_channels": config.z_channels, "double_z": False,
        }  # fmt: skip
        quantizer = VectorQuantizer2(config.quantizer.codebook_size, config.quantizer.code_dim, beta=0.25)
        super().__init__(_Assembled(Encoder(**networks), quantizer, Decoder(**networks), config), loss, quantizer_name)

    def losses(self, x: Tensor, number: int) -> Iterator[tuple[int, Tensor]]:
        for turn in (0, 1):
            self.model.requires_grad_(turn == 0)
            self.loss.discriminator.requires_grad_(turn == 1)
            made, codebook = self.model(x)
            last = self.model.decoder.conv_out.weight
            yield turn, self.loss(codebook, x, made, turn, number, last_layer=last)[0]


class LlamaGen(Peer):
    """LlamaGen: one forward a batch, then a backward for each network; gradients of D from the first are dropped."""

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        weight: float,
        adaptive: bool,
        layers: int = 3,
        pixel: str = "l1",
    ):
        with importable(folder):
            from tokenizer.tokenizer_image import lpips, vq_loss, vq_model

            lpips.LPIPS.load_from_pretrained = lambda *_: None
            loss = vq_loss.VQLoss(
                0,
                disc_weight=weight,
                disc_adaptive_weight=adaptive,
                disc_num_layers=layers,
                reconstruction_loss=pixel,
            )
        shape = {"ch": config.channels, "ch_mult": config.channel_multipliers, "num_res_blocks": config.res_blocks}
        networks = [part(z_channels=config.z_channels, **shape) for part in (vq_model.Encoder, vq_model.Decoder)]
        quantizer = vq_model.VectorQuantizer(
            config.quantizer.codebook_size, config.quantizer.code_dim, 0.25, 0.0, False, True
        )
        quantizer.codebook_used.requires_grad_(False)  # a Parameter that it writes to in place, which torch refuses
        model = _Assembled(networks[0], quantizer, networks[1], config)
        levels = len(config.channel_multipliers)
        super().__init__(model, loss, lambda name: llamagen_name(quantizer_name(name), levels))

    def losses(self, x: Tensor, number: int) -> Iterator[tuple[int, Tensor]]:
        made, codebook = self.model(x)
        silent = {"log_every": sys.maxsize}
        yield 0, self.loss(codebook, x, made, 0, number, last_layer=self.model.decoder.last_layer, **silent)
        yield 1, self.loss(codebook, x, made, 1, number, **silent)
