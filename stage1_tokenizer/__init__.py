"""Stage one: pictures to codes and back.

    from stage1_tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(DIR)            # a folder, or a name on the Hub with revision=…
    codes = tokenizer.encode(pictures)                    # float tensors in [-1, 1], PIL pictures or lists of them
    pictures = tokenizer.decode(codes)

Commands (`--help` explains each setting, `--print_config` prints them):

    train        a tokenizer by a recipe: python -m launch.local --processes 8 stage1_tokenizer.train --config RECIPE
    evaluate     PSNR, SSIM, LPIPS, use of the codebook, distances between sets, with what they rest on
    compare      VAE, VQ-VAE, VQGAN and every quantizer on the same data and steps: a table and a picture
    release      a run as a folder that others load, with or without this package
    reconstruct  files beside their reconstructions, with figures and bytes for each
    convert      tokenizers that others published, into this form and out to diffusers

What a tokenizer is made of (`model.*`): `backbone` conv, conv_plus or vit (with `vit.latent_tokens` a 1-D one), and
`quantizer.kind`, ten of them with one protocol (`stage1_tokenizer.quantizers`). `gaussian` is a VAE; `vq` without the
adversarial term a VQ-VAE; with it a VQGAN.

What it minimises (`loss.*`): pixels + LPIPS + adversarial + the quantizer's own terms. One forward serves all of them
(`stage1_tokenizer.training.step`): gradients are taken at the reconstruction, weighed there, and sent through the
networks once. `data.micro_batch` computes a batch in parts, with the same update. `stage1_tokenizer.training.monitor`
names what goes wrong.
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
