"""Converted tokenizers of videos beside their own code: are the codes equal, how far are the frames apart?

    python -m tests.benchmarks.video_parity --peer DIR [--only emu3]

DIR holds checkouts Emu3/ (baaivision), SEED-Voken/ (TencentARC) and Cosmos-Tokenizer/ (NVIDIA); those that are missing
are left out. They need einops, and Cosmos loguru. Models are small, with random weights. Of SEED-Voken the networks
run, its quantizer is the signs of their latents.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stage1_tokenizer.foreign import LAYOUTS
from stage1_tokenizer.foreign.base import Source
from stage1_tokenizer.publishing.convert import build

LIMIT = 1e-4
"""Largest difference of a pixel in [-1, 1] that still counts as equal."""


class Peer(NamedTuple):
    """A model of another project."""

    layout: str
    weights: dict[str, Tensor]
    settings: dict[str, Any]
    encode: Callable[[Tensor], Tensor]
    """Clips x_BCTHW to codes (B, t, h, w)."""
    decode: Callable[[Tensor], Tensor]


def imported(name: str, path: Path) -> Any:
    """A module from a file, of a package of that name where the file's folder is one."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def emu3(place: Path) -> Iterator[Peer]:
    """Emu3's vision tokenizer, with batch norms that have seen something."""
    folder = place / "emu3" / "tokenizer"
    settings = imported("peer.configuration_emu3visionvq", folder / "configuration_emu3visionvq.py")
    network = imported("peer.modeling_emu3visionvq", folder / "modeling_emu3visionvq.py")
    small = {"ch": 32, "ch_mult": [1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [2], "codebook_size": 64}
    model = network.Emu3VisionVQModel(settings.Emu3VisionVQConfig(embed_dim=4, z_channels=4, **small)).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.weight.normal_(1, 0.2), part.bias.normal_(), part.running_mean.normal_()  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    encode, decode = (lambda x: model.encode(x.transpose(1, 2))), (lambda codes: model.decode(codes).transpose(1, 2))
    yield Peer("emu3", model.state_dict(), {}, encode, decode)


def open_magvit2(place: Path) -> Iterator[Peer]:
    """The networks of Open-MAGVIT2's tokenizer of videos, between which codes are signs."""
    folder = place / "src" / "Open_MAGVIT2" / "modules" / "diffusionmodules"
    network = imported("peer_magvit2", folder / "improved_video_model.py")
    small = {"ch": 32, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "z_channels": 6, "in_channels": 3, "out_ch": 3}
    encoder, decoder = (kind(**small, resolution=16).eval() for kind in (network.Encoder, network.Decoder))
    weights = {f"encoder.{name}": weight for name, weight in encoder.state_dict().items()}
    weights |= {f"decoder.{name}": weight for name, weight in decoder.state_dict().items()}
    for name, weight in weights.items():
        if "norm" in name or "bias" in name:
            weight.normal_()
    weights["encoder.conv_out.conv_1.bias"].zero_()  # else it decides the signs
    bits = torch.arange(6).view(1, 6, 1, 1, 1)
    yield Peer(
        "open_magvit2_video",
        weights,
        {},
        lambda x: ((encoder(x) > 0).long() << bits).sum(1),
        lambda codes: decoder((codes[:, None] >> bits & 1).float() * 2 - 1),
    )


def cosmos(place: Path) -> Iterator[Peer]:
    """Cosmos' discrete tokenizers of videos, of all three published compressions."""
    sys.path.insert(0, str(place))
    from cosmos_tokenizer.networks.configs import discrete_video  # type: ignore[import-not-found]
    from cosmos_tokenizer.networks.discrete_video import (  # type: ignore[import-not-found]
        CausalDiscreteVideoTokenizer,
    )

    small = {"channels": 16, "channels_mult": [1, 2, 2], "num_res_blocks": 1, "z_channels": 8, "resolution": 64}
    for time, space in ((4, 8), (8, 8), (8, 16)):
        compression = {"temporal_compression": time, "spatial_compression": space}
        model = CausalDiscreteVideoTokenizer(**{**discrete_video, **small, **compression}).eval()
        model.quantizer.dtype = torch.float32
        model.quant_conv.conv3d.weight.mul_(30)  # so that many codes are used
        yield Peer(
            "cosmos",
            model.state_dict(),
            compression,
            lambda x, model=model: model.quantizer(model.quant_conv(model.encoder(x)))[0].long(),
            lambda codes, model=model: model.decode_code(codes),
        )


PEERS = {"Emu3": emu3, "SEED-Voken": open_magvit2, "Cosmos-Tokenizer": cosmos}


@torch.no_grad()
def compare(peer: Peer) -> dict[str, Any]:
    """Codes and frames of clips of several lengths, the shortest ones too."""
    weights = {name: weight.clone() for name, weight in peer.weights.items()}
    tokenizer = build(LAYOUTS[peer.layout].convert(Source(peer.layout, "peer", weights, {}, peer.settings, {})), "peer")
    step, first = tokenizer.config.stride[0], int(tokenizer.config.first_alone)
    row: dict[str, Any] = {"layout": peer.layout, "stride": tokenizer.config.stride, "codes_equal": True}
    row |= {"distinct": 0, "difference": 0.0}
    for parts in (0, 1, 2) if first else (1, 2):
        x_BCTHW = torch.rand(1, 3, first + parts * step, 32, 32) * 2 - 1
        codes = peer.encode(x_BCTHW)
        y_BCTHW = peer.decode(codes).clamp(-1, 1)
        row["codes_equal"] &= torch.equal(tokenizer.encode(x_BCTHW), codes)
        row["distinct"] = max(row["distinct"], len(codes.unique()))
        row["difference"] = max(row["difference"], float((tokenizer.decode(codes) - y_BCTHW).abs().max()))
    return row


def main() -> int:
    """Compare, print a line of JSON for each; 1 if one differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="folder with the checkouts")
    parser.add_argument("--only", choices=["emu3", "open_magvit2", "cosmos"], help="one of them")
    options = parser.parse_args()
    bad = 0
    for name, peers in PEERS.items():
        if (options.peer / name).is_dir() and options.only in (None, peers.__name__):
            torch.manual_seed(0)
            with torch.no_grad():
                made = peers((options.peer / name).resolve())
                for peer in made:
                    row = compare(peer)
                    print(json.dumps(row), flush=True)
                    bad += not row["codes_equal"] or row["difference"] > LIMIT
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
