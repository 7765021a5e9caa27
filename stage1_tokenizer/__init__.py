"""Stage one: pictures to codes and back.

    from stage1_tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(DIR)            # a folder, or a name on the Hub with revision=…
    codes = tokenizer.encode(pictures)                    # float tensors in [-1, 1], PIL pictures or lists of them
    pictures = tokenizer.decode(codes)

Commands (`--help` explains each setting, `--print_config` prints them):

    train        a tokenizer from a recipe: python -m launch.local --processes 8 stage1_tokenizer.train --config RECIPE
    evaluate     PSNR, SSIM, LPIPS, codebook usage, distances between sets
    compare      VAE, VQ-VAE, VQGAN and every quantizer on the same data and steps: a table and a picture
    release      a run as a folder that others load, with or without this package
    reconstruct  files beside their reconstructions, with metrics and bytes
    convert      published tokenizers into this form, and out to diffusers
    hub          push a released folder

Rooms:

    config, layers                             settings, without torch; what all networks share
    networks, quantizers                       encoders and decoders; latents to codes
    losses, discriminators                     what training minimizes at the reconstruction
    kernels                                    faster forms of layers, swapped into plain networks
    tokenizer                                  the public class
    training, measuring, publishing, foreign   steps, metrics, released folders, published checkpoints
    media                                      one file per kind of data

`training.step` has the algorithm of a training step. `docs/networks.md` describes what there is to choose from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage1_tokenizer.tokenizer.model import Tokenizer

__all__ = ["Tokenizer"]


def __getattr__(name: str) -> Any:
    """Load torch only once the class is asked for, so that `--help` and errors in a configuration answer at once."""
    if name == "Tokenizer":
        from stage1_tokenizer.tokenizer.model import Tokenizer

        return Tokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
