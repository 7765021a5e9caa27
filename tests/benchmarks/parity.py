"""Converted tokenizers beside the peers' own code: are the codes equal, how far are the reconstructions apart?

    python -m tests.benchmarks.parity --peer DIR

DIR holds checkouts taming-transformers/, LlamaGen/, SEED-Voken/, SimVQ/, VAR/ and open-muse/. Each peer's own model,
small and with random weights, is saved as its trainer would, converted by the command, and given the same pictures. A
peer whose code can't be run is named with the reason. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import yaml
from torch import Tensor

from stage1_tokenizer import convert
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.benchmarks import peer_models
from tests.benchmarks.peer_models import PeerModel
from tests.stage1_tokenizer.foreign import peer_layouts
from tests.stage1_tokenizer.foreign.peer_layouts import Shape, Shapes

LIMIT = 1e-4
"""Largest difference of a pixel in [-1, 1] that still counts as equal."""


SMALL = Shape(ch=32, mult=(1, 2, 2), z=16, codes=64, dim=16, attention=(2,))
WIDE, DEEP = replace(SMALL, ch=128, dim=8), replace(SMALL, mult=(1, 1, 2, 2, 4), attention=(4,))
F16, F8 = Shape(), Shape(mult=(1, 2, 2, 4), attention=(3,))


@dataclass(frozen=True)
class Case:
    """A peer's tokenizer, small and as it was published."""

    layout: str
    """The converter's name for it."""
    build: Callable[[Path, Shape, int], PeerModel]
    """The peer's own model."""
    listing: Callable[[Shape], Shapes]
    """The keys and shapes that the tests state for it."""
    published: Shape
    """Its published numbers; codebooks above 16,384 are cut to that, as the search is the same."""
    small: Shape = SMALL
    """Small ones."""
    sizes: tuple[int, int] = (32, 256)
    """Pixels of the small and the published pictures."""


def gumbel(folder: Path, shape: Shape, size: int) -> PeerModel:
    """taming-transformers' GumbelVQ."""
    return peer_models.taming(folder, shape, size, "GumbelVQ")


def var_keys(shape: Shape) -> Shapes:
    """VAR's; the small one has fewer scales."""
    return peer_layouts.var(shape, scales=4 if shape.ch == SMALL.ch else 10)


PEERS: dict[str, Case] = {
    "taming VQModel": Case("taming", peer_models.taming, peer_layouts.taming, F16),
    "taming VQModel, attention at 2 levels": Case(
        "taming", peer_models.taming, peer_layouts.taming, replace(F8, attention=(2, 3)),
        replace(SMALL, attention=(1, 2)),
    ),
    "taming GumbelVQ": Case("taming", gumbel, peer_layouts.gumbel, replace(F8, codes=8192)),
    "LlamaGen VQModel": Case(
        "llamagen", peer_models.llamagen, peer_layouts.llamagen, replace(F16, codes=16384, dim=8), WIDE
    ),
    "SEED-Voken IBQ": Case("ibq", peer_models.ibq, peer_layouts.taming, Shape(blocks=4, codes=16384)),
    "SEED-Voken Open-MAGVIT2": Case(
        "open_magvit2", peer_models.open_magvit2, peer_layouts.magvit, Shape(blocks=4, z=18), replace(SMALL, z=10)
    ),
    "SimVQ VQModel": Case(
        "simvq", peer_models.simvq, peer_layouts.simvq, Shape(mult=(1, 2, 2, 4), z=128, dim=128, codes=16384),
        sizes=(32, 128),
    ),
    "VAR VQVAE": Case("var", peer_models.var, var_keys, Shape(ch=160, z=32, codes=4096), DEEP, (64, 256)),
    "open-muse MaskGitVQGAN": Case("maskgit", peer_models.maskgit, peer_layouts.maskgit, F16),
    "diffusers VQModel": Case(
        "diffusers", peer_models.diffusers, peer_layouts.diffusers,
        Shape(mult=(1, 2, 2, 4, 6), z=64, dim=64, codes=8192, attention=()),
    ),
}  # fmt: skip
"""What is compared."""


@dataclass
class Compared:
    """A peer's tokenizer beside its conversion."""

    peer: str
    """Whose."""
    codes_equal: bool = False
    """Whether all codes are the same."""
    codes: int = 0
    """How many were compared."""
    distinct: int = 0
    """How many different ones there are among them."""
    difference: float | None = None
    """Largest one of a pixel, reconstructions in [-1, 1] but not clamped; where all codes are equal."""
    largest: float = 0.0
    """Largest absolute value of the peer's reconstruction: what the difference is to be seen against."""
    discriminator: str = ""
    """What became of it."""
    listed: bool = False
    """Whether its own keys and shapes are those that the tests state for it, which need no checkout."""
    reason: str = ""
    """Why it wasn't run, or what had to be changed to run it."""

    @property
    def good(self) -> bool:
        """Whether it is on par."""
        return self.codes_equal and self.listed and self.difference is not None and self.difference <= LIMIT


def written(peer: PeerModel, folder: Path) -> list[str]:
    """Save what a peer's trainer would; the options of the converter."""
    torch.save(peer.checkpoint, folder / "last.ckpt")
    options = [str(folder / "last.ckpt"), str(folder / "out"), *peer.changes]
    if peer.settings is not None:
        (folder / "peer.yaml").write_text(yaml.safe_dump(peer.settings))
        options += ["--config", str(folder / "peer.yaml")]
    return options


def ours(tokenizer: Tokenizer, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, flat, and the reconstruction, not clamped."""
    codes = tokenizer.encode(x_BCHW)
    return codes.flatten(), tokenizer.decoder(tokenizer.post_quant_conv(tokenizer.quantizer.embed(codes)))


@torch.no_grad()
def compare(name: str, folder: Path, published: bool) -> Compared:
    """Build a peer's tokenizer, convert it, run both."""
    case = PEERS[name]
    shape, size = (case.published if published else case.small), case.sizes[published]
    torch.manual_seed(0)
    try:
        peer = case.build(folder, shape, size)
    except (ImportError, FileNotFoundError, AttributeError) as error:
        return Compared(name, reason=f"not run: {' '.join(str(error).split())}")
    x_BCHW = torch.rand(1 if published else 2, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1
    their_codes, their_recon = peer.reconstruct(x_BCHW)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        convert.main([*written(peer, Path(place)), "--from", case.layout])
        tokenizer = Tokenizer.from_pretrained(out)
        carried = "carried over" if (out / "discriminator.safetensors").is_file() else "none"
    codes, recon = ours(tokenizer, x_BCHW)
    found = {name: tuple(tensor.shape) for name, tensor in peer.model.state_dict().items()}
    listed = {
        name: shape for name, shape in found.items() if not name.startswith(("loss.", "model_ema."))
    } == case.listing(shape)
    equal = bool(torch.equal(codes, their_codes))
    return Compared(
        name,
        equal,
        codes.numel(),
        len(their_codes.unique()),
        float((recon - their_recon).abs().max()) if equal else None,
        float(their_recon.abs().max()),
        carried,
        listed,
        peer.note,
    )


def main() -> int:
    """Compare all, print the table and the JSON line; 1 where a peer that ran isn't on par."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", "--peers", type=Path, required=True, help="folder with the peers' checkouts")
    parser.add_argument("--only", choices=PEERS, help="one of them")
    parser.add_argument("--published", action="store_true", help="at the published sizes: minutes")
    options = parser.parse_args()
    rows = [compare(name, options.peer.resolve(), options.published) for name in PEERS if options.only in (None, name)]
    titles = f"{'peer':<40}{'codes equal':>12}{'codes':>7}{'distinct':>9}{'difference':>12}{'largest':>9}"
    print(f"{titles}{'as stated':>10}  discriminator")
    for row in rows:
        shown = "–" if row.difference is None else f"{row.difference:.1e}"
        print(
            f"{row.peer:<40}{row.codes_equal!s:>12}{row.codes:>7}{row.distinct:>9}{shown:>12}{row.largest:>9.2f}"
            f"{row.listed!s:>10}  {row.discriminator} {row.reason}"
        )
    print(json.dumps({"limit": LIMIT, "published": options.published, "peers": [asdict(row) for row in rows]}))
    return int(any(not row.good and not row.reason.startswith("not run") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
