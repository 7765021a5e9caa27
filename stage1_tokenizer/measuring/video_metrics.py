"""Figures of single clips beside their originals, and what each is, so that results of other definitions are refused.

Clips are compared as they would be saved: clamped and rounded to 8 bits, data range 255, one value for each clip.
Legend: B batch, C channels, T frames, H W pixels; F frames of all clips, B·T.
"""

from torch import Tensor

from stage1_tokenizer.measuring.results import defined
from stage1_tokenizer.measuring.scores import decibels


def of_clips(value_F: Tensor, frames: int) -> Tensor:
    """Means over each clip's frames, (B,), of values of `frames_of`."""
    return value_F.unflatten(0, (-1, frames)).mean(1)


def difference_psnr(x_BCTHW: Tensor, y_BCTHW: Tensor) -> Tensor:
    """PSNR of the differences between neighbouring frames in dB, (B,) float64; clips in uint8, of 2 frames or more.

    The error is that of y's differences against x's, at a peak of 255. Equal differences get 100 dB: a clip whose
    frames are all wrong in the same way does too.
    """
    error_BCTHW = (y_BCTHW.double() - x_BCTHW.double()).diff(dim=2)
    return decibels(error_BCTHW.square().flatten(1).mean(1))


def flicker(x_BCTHW: Tensor) -> Tensor:
    """Mean absolute second difference over time, full scale 1, (B,) float64; clips in uint8, of 3 frames or more.

    It is 0 where brightness changes evenly, and large where a pixel goes back and forth. Real motion has some: compare
    a reconstruction's with its original's.
    """
    return x_BCTHW.double().diff(dim=2, n=2).abs().flatten(1).mean(1) / 255


def definitions(names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """What those of these figures are that clips alone have, with a hash of each: other hashes can't be compared."""
    every = "clamped and rounded to 8 bits, data range 255, mean over frames, then over clips"
    texts = {
        "psnr": f"dB of single frames, 100 for equal ones; {every}",
        "ssim": f"single frames, gaussian window of 11, sigma 1.5, inside the frame only, mean over channels; {every}",
        "lpips": f"single frames; {every}",
        "difference_psnr": "dB of the differences between neighbouring frames, peak 255, one value for a clip, 100 for "
        "equal ones; mean over clips",
        "flicker": "mean absolute second difference over time of reconstructions, full scale 1; mean over clips",
        "real_flicker": "mean absolute second difference over time of originals, full scale 1; mean over clips",
    }
    return defined({name: text for name, text in texts.items() if name in names})
