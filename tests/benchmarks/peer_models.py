"""Peers' own tokenizers, whole, from checkouts of them, at small widths with random weights.

Only what runs nothing is put in a peer's way: Lightning becomes torch's Module, and the loss a module that holds their
own discriminator, so that checkpoints have the keys of trained ones. Each is imported apart from the others, as several
call their packages alike.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.stage1_tokenizer.foreign.peer_layouts import Shape


def numbers(shape: Shape, size: int, attention: bool = True) -> dict[str, Any]:
    """`ddconfig`, as taming-transformers and those after it call it."""
    found: dict[str, Any] = {
        "double_z": False, "in_channels": 3, "out_ch": 3, "ch": shape.ch, "ch_mult": list(shape.mult),
        "num_res_blocks": shape.blocks, "z_channels": shape.z, "resolution": size,
    }  # fmt: skip
    where = [size >> level for level in shape.attention]
    return found | ({"attn_resolutions": where, "dropout": 0.0} if attention else {})


@dataclass
class PeerModel:
    """A peer's tokenizer as it would be found."""

    model: nn.Module
    """Its own."""
    checkpoint: dict[str, Any]
    """What its trainer would save."""
    reconstruct: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Its codes, flat, and its reconstruction of pictures in [-1, 1], in [-1, 1] but not clamped."""
    settings: dict[str, Any] | None = None
    """Its configuration file, where the weights don't tell all."""
    changes: list[str] = field(default_factory=list)
    """Options of the converter."""
    note: str = ""
    """What had to be changed to run it."""


class _Loss(nn.Module):
    """Their discriminator where their loss has it, and LPIPS' keys, which a converter must drop."""

    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator
        self.perceptual_loss = nn.Module()
        self.perceptual_loss.lin0 = nn.Linear(2, 2)


@contextmanager
def checkout(folder: Path, package: str | None = None) -> Iterator[None]:
    """Import from a checkout, and forget it afterwards. `package`: one whose own __init__ is left out."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkout at {folder}")
    before = dict(sys.modules)
    lightning = types.ModuleType("lightning")
    lightning.LightningModule = nn.Module  # type: ignore[attr-defined]
    main = types.ModuleType("main")
    main.instantiate_from_config = lambda config: config  # type: ignore[attr-defined]
    requests = types.ModuleType("requests")
    requests.HTTPError = OSError  # type: ignore[attr-defined]
    sys.modules.update(lightning=lightning, pytorch_lightning=lightning, main=main, requests=requests)
    if package:
        bare = types.ModuleType(package)
        bare.__path__ = [str(folder / package)]
        bare.__version__ = "0"  # type: ignore[attr-defined]
        sys.modules[package] = bare
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - set(before):
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")) or name in ("main", "requests", package):
                del sys.modules[name]


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of which none is as it starts: norms and biases too, so that a mistaken one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
            else:
                parameter *= 1 + 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def spread(codebook: Tensor, z_BDhw: Tensor) -> None:
    """Draw a codebook from the latents' distribution, so that many codes are used."""
    z_ND = z_BDhw.movedim(1, -1).flatten(0, -2)
    noise = torch.randn(codebook.shape, generator=torch.Generator().manual_seed(1))
    codebook.data.copy_(z_ND.mean(0) + noise * z_ND.std(0))


def with_averages(model: nn.Module, ema: Any) -> dict[str, Tensor]:
    """A Lightning state with averaged weights of its own: the last ones spoilt, so that taking them would show."""
    averages = ema(model).state_dict()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state[name] += 1.0
    return {**state, **{f"model_ema.{name}": tensor for name, tensor in averages.items()}}


def taming(folder: Path, shape: Shape, size: int, kind: str = "VQModel") -> PeerModel:
    """VQModel or GumbelVQ of taming-transformers."""
    with checkout(folder / "taming-transformers"):
        vqgan = importlib.import_module("taming.models.vqgan")
        judge = importlib.import_module("taming.modules.discriminator.model").NLayerDiscriminator
        dd = numbers(shape, size)
        more = {"temperature_scheduler_config": nn.Identity()} if kind == "GumbelVQ" else {}
        loss = _Loss(judge(input_nc=3, n_layers=2, ndf=8))
        model = randomise(getattr(vqgan, kind)(dd, loss, n_embed=shape.codes, embed_dim=shape.dim, **more))
        module = sys.modules["taming.modules.vqvae.quantize"]
    if kind == "GumbelVQ":
        nn.init.normal_(model.quantize.proj.weight)  # type: ignore[union-attr, arg-type]
        module.F = types.SimpleNamespace(  # type: ignore[attr-defined]
            softmax=torch.softmax,
            gumbel_softmax=lambda logits, tau, dim, hard: (
                nn.functional.one_hot(logits.argmax(dim), logits.shape[dim]).movedim(-1, dim).float()
            ),
        )
    return PeerModel(
        model,
        {"state_dict": model.state_dict(), "epoch": 3, "global_step": 5},
        lambda x: _vq(model, x),
        {"model": {"params": {"ddconfig": dd}}},
        note="its noise off" if kind == "GumbelVQ" else "",
    )


def _vq(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if hasattr(model.quantize, "embedding"):
        spread_once(model, model.quantize.embedding.weight, lambda: model.quant_conv(model.encoder(x)))
    quant, _, info = model.encode(x)
    return info[2].flatten(), model.decode(quant)


def spread_once(model: Any, codebook: Tensor, latents: Callable[[], Tensor]) -> None:
    """`spread`, at a model's first use."""
    if not getattr(model, "_spread", False):
        spread(codebook, latents())
        model._spread = True


def llamagen(folder: Path, shape: Shape, size: int) -> PeerModel:
    """VQModel of LlamaGen, whose width of 128 can't be set."""
    with checkout(folder / "LlamaGen"):
        vq_model = importlib.import_module("tokenizer.tokenizer_image.vq_model")
        judge = importlib.import_module("tokenizer.tokenizer_image.discriminator_patchgan").NLayerDiscriminator
        arguments = vq_model.ModelArgs(
            codebook_size=shape.codes, encoder_ch_mult=shape.mult, decoder_ch_mult=shape.mult, z_channels=shape.z
        )
        model = randomise(vq_model.VQModel(arguments))
        discriminator = judge(input_nc=3, n_layers=2, ndf=8)
    checkpoint = {
        "model": {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()},
        "ema": model.state_dict(),
        "discriminator": discriminator.state_dict(),
        "steps": 7,
    }
    return PeerModel(model, checkpoint, lambda x: _vq(model, x))


def ibq(folder: Path, shape: Shape, size: int) -> PeerModel:
    """IBQ of SEED-Voken, as its training saves it, averages included."""
    with checkout(folder / "SEED-Voken"):
        module = importlib.import_module("src.IBQ.models.ibqgan")
        judge = importlib.import_module("src.IBQ.modules.discriminator.model").NLayerDiscriminator
        dd, loss = numbers(shape, size), _Loss(judge(input_nc=3, n_layers=2, ndf=8))
        model = randomise(module.IBQ(dd, loss, n_embed=shape.codes, embed_dim=shape.dim))
        ema = importlib.import_module("src.IBQ.modules.ema").LitEma
    settings = {"model": {"init_args": {"ddconfig": dd, "beta": 0.25, "entropy_temperature": 0.01}}}
    peer = PeerModel(model, {}, lambda x: _vq(model, x), settings)
    with torch.no_grad():
        _vq(model, torch.rand(1, 3, size, size) * 2 - 1)  # before its averages are taken
    peer.checkpoint = {"state_dict": with_averages(model, ema)}
    return peer


def open_magvit2(folder: Path, shape: Shape, size: int) -> PeerModel:
    """VQModel of Open-MAGVIT2, averages included."""
    with checkout(folder / "SEED-Voken"):
        module = importlib.import_module("src.Open_MAGVIT2.models.lfqgan")
        ema = importlib.import_module("src.Open_MAGVIT2.modules.ema").LitEma
        dd = numbers(shape, 128, attention=False)
        weights = {"sample_minimization_weight": 1.0, "batch_maximization_weight": 1.0}
        model = randomise(module.VQModel(dd, nn.Identity(), n_embed=1 << shape.z, embed_dim=shape.z, **weights))

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        quant, _, codes, _ = model.encode(x)
        return codes.flatten(), model.decode(quant)

    data = {"init_args": {"train": {"params": {"config": {"size": size}}}}}
    settings = {"model": {"init_args": {"ddconfig": dd}}, "data": data}
    return PeerModel(model, {"state_dict": with_averages(model, ema)}, reconstruct, settings)


def simvq(folder: Path, shape: Shape, size: int) -> PeerModel:
    """VQModel of SimVQ, averages included; its codebook is frozen and has none."""
    with checkout(folder / "SimVQ"):
        module = importlib.import_module("taming.models.vq")
        quantize = importlib.import_module("taming.modules.vqvae.quantize").SimVQ
        ema = importlib.import_module("taming.modules.ema").LitEma
        dd = numbers(shape, size, attention=False)
        quantizer = quantize(shape.codes, shape.dim, beta=0.25, legacy=False)
        model = randomise(module.VQModel(dd, nn.Identity(), quantizer))

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        quant, _, codes, _ = model.encode(x)
        return codes.flatten(), model.decode(quant)

    with torch.no_grad():  # the projection near the identity, so that the spread codebook stays spread
        model.quantize.embedding_proj.weight.copy_(torch.eye(shape.dim) + 0.1 * torch.randn(shape.dim, shape.dim))
        spread(model.quantize.embedding.weight, model.encoder(torch.rand(1, 3, size, size) * 2 - 1))
    params = {"n_e": shape.codes, "e_dim": shape.dim, "beta": 0.25, "legacy": False}
    settings = {"model": {"init_args": {"ddconfig": dd, "quantconfig": {"params": params}}}}
    return PeerModel(model, {"state_dict": with_averages(model, ema)}, reconstruct, settings)


def var(folder: Path, shape: Shape, size: int) -> PeerModel:
    """VQVAE of VAR: five levels, as it can't be built otherwise; for a grid of 4x4, fewer scales."""
    with checkout(folder / "VAR", "models"):
        vqvae = importlib.import_module("models.vqvae").VQVAE
        scales = (1, 2, 3, 4) if size == 64 else (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
        model = randomise(vqvae(shape.codes, shape.z, shape.ch, v_patch_nums=scales, test_mode=True))

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        spread_once(model, model.quantize.embedding.weight, lambda: model.quant_conv(model.encoder(x)))
        codes = torch.cat(model.img_to_idxBl(x), dim=1)
        latents = model.quantize.f_to_idxBl_or_fhat(model.quant_conv(model.encoder(x)), to_fhat=True)[-1]
        return codes.flatten(), model.decoder(model.post_quant_conv(latents))

    return PeerModel(model, model.state_dict(), reconstruct, changes=["--model.quantizer.scales", str(list(scales))])


def maskgit(folder: Path, shape: Shape, size: int) -> PeerModel:
    """MaskGitVQGAN of open-muse: pictures in [0, 1]."""
    with checkout(folder / "open-muse", "muse"):
        sys.modules["muse"].logging = importlib.import_module("muse.logging")  # type: ignore[attr-defined]
        module = importlib.import_module("muse.modeling_maskgit_vqgan")
        model = randomise(
            module.MaskGitVQGAN(
                resolution=size, hidden_channels=shape.ch, channel_mult=shape.mult, num_res_blocks=shape.blocks,
                z_channels=shape.z, num_embeddings=shape.codes, quantized_embed_dim=shape.dim,
            )
        )  # fmt: skip

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        unit = (x + 1) / 2
        spread_once(model, model.quantize.embedding.weight, lambda: model.encoder(unit))
        recon, _, codes = model(unit)
        return codes.flatten(), recon * 2 - 1

    return PeerModel(model, model.state_dict(), reconstruct)


def diffusers(folder: Path, shape: Shape, size: int) -> PeerModel:
    """VQModel of the installed diffusers; `folder` isn't needed."""
    from diffusers import VQModel

    at = [number in shape.attention for number in range(len(shape.mult))]
    settings: dict[str, Any] = {
        "block_out_channels": shape.widths, "layers_per_block": shape.blocks, "latent_channels": shape.z,
        "num_vq_embeddings": shape.codes, "vq_embed_dim": shape.dim, "mid_block_add_attention": any(at),
        "down_block_types": ["AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in at],
        "up_block_types": ["AttnUpDecoderBlock2D" if here else "UpDecoderBlock2D" for here in reversed(at)],
    }  # fmt: skip
    model: Any = randomise(VQModel(**settings))

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        spread_once(model, model.quantize.embedding.weight, lambda: model.encode(x).latents)
        latents = model.encode(x).latents
        return model.quantize(latents)[2][2].flatten(), model.decode(latents).sample

    return PeerModel(model, model.state_dict(), reconstruct, {"_class_name": "VQModel"})
