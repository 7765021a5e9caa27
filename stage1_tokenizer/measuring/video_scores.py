"""Quality of reconstructed clips and use of the codes, as sums that ranks can add up.

Legend: B batch, C channels, T frames, H W pixels; F frames of all clips.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from data.pictures.transforms import to_float, to_uint8
from data.videos.batches import VideoBatch
from data.videos.config import VideoConfig
from launch.ranks.joined import Ranks
from stage1_tokenizer.layers.video import frames_of
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.measuring.distances import KEPT, SetSums, figures
from stage1_tokenizer.measuring.features import FeatureNetwork
from stage1_tokenizer.measuring.picture_sets import SampleHash, filled
from stage1_tokenizer.measuring.scores import WINDOW, Scores, psnr, ssim
from stage1_tokenizer.measuring.video_features import VideoVgg16, in_parts
from stage1_tokenizer.measuring.video_metrics import difference_psnr, flicker, of_clips
from stage1_tokenizer.tokenizer.model import Tokenizer


class ClipSets:
    """Features of the originals and of their reconstructions, for the distance between the two sets."""

    def __init__(self, network: FeatureNetwork, device: torch.device, kept: int = KEPT):
        self.network, self.kept = network, kept
        self.originals, self.reconstructions = SetSums(network, device, kept), SetSums(network, device, kept)

    def distances(self, ranks: Ranks) -> dict[str, float]:
        """The reconstructions' distances from the originals, computed on rank 0; every rank must call it."""
        original, measured = (sums.result(ranks.sum, ranks.gather) for sums in (self.originals, self.reconstructions))
        return ranks.gather(figures(self.network, measured, original) if ranks.rank == 0 else None)[0]


def names(transform: VideoConfig, lpips: bool) -> tuple[str, ...]:
    """The figures of reconstructed clips of a transform."""
    chosen = ["psnr", *(["ssim"] if transform.size >= WINDOW else []), *(["lpips"] if lpips else [])]
    chosen += ["difference_psnr"] if transform.frames > 1 else []
    return (*chosen, *(["flicker", "real_flicker"] if transform.frames > 2 else []))


def rates(transform: VideoConfig, figures: dict[str, Any]) -> dict[str, float]:
    """bits_per_frame and, of clips with a rate, bits_per_second, from `figures` with bits_per_pixel."""
    if "bits_per_pixel" not in figures:
        return {}
    each = figures["bits_per_pixel"] * transform.size**2
    rate = transform.frame_rate
    return {"bits_per_frame": each, **({"bits_per_second": each * rate} if rate else {})}


def measure_videos(
    tokenizer: Tokenizer,
    batches: Iterable[VideoBatch],
    lpips: LPIPS | None,
    *,
    device: torch.device,
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    sets: ClipSets | None = None,
    rows: int = 0,
    hashed: SampleHash | None = None,
) -> dict[str, Any]:
    """Figures over this rank's batches and, through `total`, the other ranks'; every rank calls it.

    Keys: psnr (dB), ssim (frames of 11 pixels and more) and lpips, means over frames; difference_psnr (dB, 2 frames and
    more), flicker and real_flicker (3 frames and more); codes_used, codebook_usage, entropy_bits, perplexity;
    bits_per_pixel, bits_per_frame and, of clips with a rate, bits_per_second; samples (clips) and frames. `sets` takes
    features and `hashed` the clips. Batches are filled up to `rows` clips, so that figures don't depend on the ranks.
    """
    transform = tokenizer.transform
    assert isinstance(transform, VideoConfig)
    scores, chosen = Scores(tokenizer.codebook_size, device, tokenizer.codebooks), names(transform, lpips is not None)
    for batch in batches:
        count = len(batch.keys)
        pixels_BCTHW = filled(batch.pixels_BCTHW, rows).to(device, non_blocking=True)
        x_BCTHW = to_float(pixels_BCTHW)
        with torch.no_grad():
            y_BCTHW, codes = tokenizer.reconstruct(x_BCTHW)
            rounded_BCTHW = to_uint8(y_BCTHW)
            values = _figures(pixels_BCTHW, rounded_BCTHW, lpips, sets, batch.keys)
        kept = {name: values[name][:count] for name in chosen}
        scores.add(kept, None if codes is None else codes[:count], x_BCTHW[:count])
        if hashed is not None:
            hashed.add_rows(row.transpose(0, 1) for row in batch.pixels_BCTHW)
    found = scores.result(chosen, total)
    return {**found, **rates(transform, found), "frames": found["samples"] * transform.frames}


def _figures(
    x_BCTHW: Tensor, y_BCTHW: Tensor, lpips: LPIPS | None, sets: ClipSets | None, keys: list[str]
) -> dict[str, Tensor]:
    """All figures of uint8 clips and their reconstructions, (B,) each; their features go to `sets`."""
    frames, smallest = x_BCTHW.shape[2], min(x_BCTHW.shape[3:])
    x_FCHW, y_FCHW = frames_of(x_BCTHW), frames_of(y_BCTHW)
    values = {"psnr": of_clips(psnr(y_FCHW, x_FCHW), frames)}
    if smallest >= WINDOW:
        values["ssim"] = of_clips(ssim(y_FCHW, x_FCHW), frames)
    if frames > 1:
        values["difference_psnr"] = difference_psnr(x_BCTHW, y_BCTHW)
    if frames > 2:
        values |= {"flicker": flicker(y_BCTHW), "real_flicker": flicker(x_BCTHW)}
    distances: list[Tensor] = []
    features: tuple[list[Tensor], list[Tensor]] = ([], [])
    network = sets.network if sets is not None else None
    for pair in zip(in_parts(x_BCTHW), in_parts(y_BCTHW), strict=True):
        taps: list[list[Tensor]] | None = None
        if lpips is not None:
            taps = [lpips.features(to_float(frames_of(each))) for each in pair]
            distances.append(of_clips(lpips.distance(taps[1], taps[0]), frames))
        for number, each in enumerate(pair if network is not None else ()):
            assert network is not None
            if isinstance(network, VideoVgg16):
                known = taps[number] if taps and network.frame.lpips is lpips else None
                features[number].append(network.of_part(to_float(each), known))
            else:
                features[number].append(network(each)["pool"])
    if lpips is not None:
        values["lpips"] = torch.cat(distances)
    if sets is not None:
        for sums, parts in zip((sets.originals, sets.reconstructions), features, strict=True):
            sums.add({"pool": torch.cat(parts)[: len(keys)]}, keys)
    return values
