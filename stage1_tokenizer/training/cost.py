"""The cost of a tokenizer's training: parameters, operations, memory under each strategy.

Estimated from the configuration alone, on no device: `python -m stage1_tokenizer.train --config R --dry-run true`.
Legend: B batch, C channels, H W pixels, D latent channels, h w latent grid.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from launch.strategies.memory import memory_table, state_bytes
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.tokenizer.codec import Codec

VGG16_PER_PIXEL = 612e3
"""Operations of VGG16's convolutions per pixel of a picture: those of LPIPS with net=vgg."""


class Kept:
    """Bytes that a forward keeps for the backward pass; `inside` of recomputable blocks, with the blocks' inputs."""

    def __init__(self, network: nn.Module):
        self.outside, self.inputs, self.blocks = 0, 0, [0]
        # Storages are kept, as the address of one that is gone may be another's.
        stored = (weight.untyped_storage() for weight in (*network.parameters(), *network.buffers()))
        self._known = {one._cdata: one for one in stored}
        self._depth = 0
        for part in network.modules():
            if isinstance(part, Recomputable):
                part.register_forward_pre_hook(self._enter)
                part.register_forward_hook(self._leave)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what the forwards inside keep."""
        with torch.autograd.graph.saved_tensors_hooks(self._add, lambda tensor: tensor):
            yield

    def bytes(self, *, recompute: bool) -> int:
        """All of it; with `recompute` the blocks' inputs and one block."""
        return self.outside + (self.inputs + max(self.blocks) if recompute else sum(self.blocks))

    def _add(self, tensor: Tensor) -> Tensor:
        stored = tensor.untyped_storage()
        if stored._cdata not in self._known:
            self._known[stored._cdata] = stored
            if self._depth:
                self.blocks[-1] += tensor.nbytes
            else:
                self.outside += tensor.nbytes
        return tensor

    def _enter(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._depth += 1
        if self._depth == 1:
            self.blocks.append(0)
            self.inputs += inputs[0].nbytes

    def _leave(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._depth -= 1


@dataclass(frozen=True)
class TokenizerCost:
    """Size, operations and kept activations of the networks of one training."""

    generator: int
    """Parameters of encoder, quantizer and decoder."""
    quantizer: int
    """Of them, the quantizer's, which every rank keeps whole."""
    discriminators: int
    """Parameters of all discriminators."""
    forward: dict[str, float]
    """Operations of one picture's forward through each network."""
    kept: float
    """Bytes in float32 that one picture's forward keeps for the backward pass."""

    @property
    def step(self) -> float:
        """Operations per picture of a step: three times the forwards of generator and LPIPS, seven of discriminators.

        LPIPS goes forward for both pictures and back to one; a discriminator forward for both, back to one, and then
        back to its weights from both.
        """
        sevenfold = self.forward["discriminator"]
        return 3 * (sum(self.forward.values()) - sevenfold) + 7 * sevenfold


def on_no_device(config: TokenizerTrainConfig) -> TokenizerCost:
    """The cost of networks that aren't allocated. Quantizers' searches are left out."""
    model, sizes = config.model, config.data.transform.sizes
    with torch.device("meta"):
        codec = Codec(model).train()
        judges = nn.ModuleList(
            build_discriminator(one, model.in_channels, model.spatial_dims) for one in config.loss.adversaries.values()
        )
        x_BCHW = torch.empty(1, model.in_channels, *sizes)
        z_BDhw = torch.empty(1, codec.quantizer.latent_channels, *codec.grid(sizes)).requires_grad_()
        x_hat = torch.empty_like(x_BCHW).requires_grad_()
        keeping = Kept(nn.ModuleList([codec, judges]))
        forward: dict[str, float] = {}
        for name, network, entering in (
            ("encoder", lambda x: codec.quant_conv(codec.encoder(x)), x_BCHW),
            ("decoder", lambda z: codec.decoder(codec.post_quant_conv(z)), z_BDhw),
            ("discriminator", lambda x: [judge(x) for judge in judges], x_hat),
        ):
            with FlopCounterMode(display=False) as counter, keeping.counting():
                network(entering)
            forward[name] = float(counter.get_total_flops())
    if config.loss.perceptual.weight and config.data.kind != "sounds":
        forward["LPIPS"] = VGG16_PER_PIXEL * math.prod(sizes)
    return TokenizerCost(
        _count(codec),
        _count(codec.quantizer),
        _count(judges),
        forward,
        float(keeping.bytes(recompute=config.activation_checkpointing)),
    )


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def memory(config: TokenizerTrainConfig, cost: TokenizerCost, devices: int) -> tuple[dict[str, float], float]:
    """Bytes of state on each device by strategy, and those of kept activations.

    The quantizer is whole on each, and averages are kept of the generator only.
    """
    shared = state_bytes(cost.generator - cost.quantizer, devices)
    judging = state_bytes(cost.discriminators, devices, averaged=False)
    whole = state_bytes(cost.quantizer, 1)
    state = {name: each + judging[name] + whole[name] for name, each in shared.items()}
    samples = -(-config.data.batch_size // devices)
    samples = min(samples, config.data.micro_batch or samples)
    return state, samples * cost.kept * (1.0 if config.run.precision == "fp32" else 0.5)


def dry_run(config: TokenizerTrainConfig) -> str:
    """The cost of a training as text."""
    cost = on_no_device(config)
    each, batch = cost.step, config.data.batch_size
    forward = ", ".join(f"{name} {flops / 1e9:.4g}" for name, flops in cost.forward.items() if flops)
    lines = [
        f"tokenizer: {config.model.backbone}, {cost.generator / 1e6:.2f} M parameters "
        f"({cost.quantizer / 1e6:.2f} M of the quantizer), discriminator: {cost.discriminators / 1e6:.2f} M",
        f"a {config.data.kind.removesuffix('s')}: {each:.3g} FLOP in a step; GFLOP of a forward: {forward}",
        f"a step: {batch} {config.data.kind}, {each * batch:.3g} FLOP; {config.steps} steps: "
        f"{each * batch * config.steps:.3g} FLOP",
        *memory_table(config.run.precision, lambda devices: memory(config, cost, devices)),
    ]
    whole = 4 * cost.generator / 2**30
    lines.append(f"an evaluation needs {whole:.2f} GiB more, for whole averaged weights (none more with DDP)")
    return "\n".join(lines)
