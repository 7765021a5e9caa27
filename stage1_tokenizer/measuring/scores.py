"""Quality of reconstructions, use of the codebook, and sets of pictures, as sums that ranks can add up.

PSNR and SSIM compare pictures as they would be saved: clamped and rounded to 8 bits, data range 255, one value for
each picture, then the mean over pictures. Legend: B batch, C channels, H W pixels, h w latent grid, K codes.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data.pictures.batches import PictureBatch
from data.pictures.config import TransformConfig
from data.pictures.transforms import to_float, to_uint8
from launch.ranks.joined import Ranks
from launch.ranks.reduce import all_rows
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.measuring.distances import KEPT, SetStatistics, SetSums, figures
from stage1_tokenizer.measuring.features import FeatureNetwork, Vgg16
from stage1_tokenizer.measuring.picture_sets import PictureHash, filled
from stage1_tokenizer.measuring.references import MeasuredSet, describe
from stage1_tokenizer.quantizers.usage import count_codes
from stage1_tokenizer.tokenizer.model import Tokenizer

WINDOW = 11
"""Side of SSIM's Gaussian window (Wang et al. 2004); smaller pictures have no SSIM."""


def psnr(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, (B,) float64; pictures in uint8. Equal pictures get 100 dB."""
    return decibels((x_BCHW.double() - y_BCHW.double()).square().flatten(1).mean(1))


def decibels(error_B: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors of uint8 values; 100 for no error."""
    return torch.where(error_B > 0, 10 * torch.log10(255.0**2 / error_B.clamp_min(1e-12)), 100.0)


def ssim(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Structural similarity of each picture, (B,) float64; pictures in uint8. (Wang et al. 2004, eq. 13)

    Gaussian window of 11 with sigma 1.5, only inside the picture, mean over channels; K1 0.01, K2 0.03.
    Raises ValueError for pictures smaller than the window.
    """
    channels, height, width = x_BCHW.shape[1:]
    if min(height, width) < WINDOW:
        raise ValueError(f"pictures of {height}x{width} are smaller than SSIM's window of {WINDOW}")
    at = torch.arange(WINDOW, dtype=torch.float64, device=x_BCHW.device) - WINDOW // 2
    weight = torch.exp(-at.square() / (2 * 1.5**2))
    weight = weight / weight.sum()

    def blur(h_BCHW: Tensor) -> Tensor:
        h = F.conv2d(h_BCHW, weight.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(h, weight.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)

    x, y = x_BCHW.double(), y_BCHW.double()
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).flatten(1).mean(1)


COUNTED = 2**24
"""Use and perplexity of larger codebooks are not measured."""


def code_statistics(count_GK: Tensor) -> dict[str, float]:
    """Codebook use from how often each code occurred: codes_used, codebook_usage, entropy_bits, perplexity.

    (K,), or (G, K) for several codebooks: codes_used is the total, the others are means over the codebooks, and
    perplexity is that of the mean entropy.
    """
    count_GK = count_GK.reshape(-1, count_GK.shape[-1])
    share_GK = count_GK.double() / count_GK.sum(1, keepdim=True).clamp_min(1)
    entropy = float(-torch.special.xlogy(share_GK, share_GK).sum(1).mean()) / math.log(2)
    used = int((count_GK > 0).sum())
    return {
        "codes_used": used,
        "codebook_usage": used / count_GK.numel(),
        "entropy_bits": entropy,
        "perplexity": 2.0**entropy,
    }


def batch_use(idx_Bhw: Tensor, codebook_size: int, codebooks: int = 1) -> dict[str, Tensor]:
    """How many codes the global batch uses, and their perplexity, without waiting for the device; every rank calls it.

    Empty for codebooks of more than COUNTED codes.
    """
    if codebook_size > COUNTED:
        return {}
    idx_Bhw = all_rows(idx_Bhw)  # a batch has fewer codes than a large codebook has counts
    count_GK = count_codes(idx_Bhw, codebook_size, codebooks)
    share_GK = count_GK.float() / (idx_Bhw.numel() / codebooks)
    entropy = -torch.special.xlogy(share_GK, share_GK).sum(1).mean()
    return {"codes/used": (count_GK > 0).sum(), "codes/perplexity": entropy.exp()}


class Scores:
    """Sums over pictures, on the device; `result` adds those of all ranks and waits for the device once."""

    def __init__(self, codebook_size: int, device: torch.device, codebooks: int = 1):
        self._sums: dict[str, Tensor] = {}
        self._codebook_size = codebook_size
        counted = codebook_size if codebook_size <= COUNTED else 0
        self._count_GK = torch.zeros(codebooks, counted, dtype=torch.int64, device=device)
        self._positions = torch.zeros(3, dtype=torch.float64, device=device)  # pictures, codes, pixels

    def add(self, scores: dict[str, Tensor], idx_Bhw: Tensor | None, x_BCHW: Tensor) -> None:
        """Add a batch: scores of each picture, (B,), by name; codes; the pictures, for their number and size.

        Every batch on every rank has the same names.
        """
        for name, score_B in scores.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(self._positions[0])) + score_B.double().sum()
        pixels = x_BCHW[:, 0].numel()
        codes = 0 if idx_Bhw is None else idx_Bhw.numel()
        self._positions += torch.tensor([len(x_BCHW), codes, pixels], dtype=torch.float64).to(self._positions.device)
        if idx_Bhw is not None and self._count_GK.numel():
            self._count_GK += count_codes(idx_Bhw, self._codebook_size, len(self._count_GK))

    def result(self, names: tuple[str, ...], total: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> dict:
        """Means over all pictures of all ranks, with codebook use, bits per pixel and the number of pictures.

        `names` are those of `add` (a rank without a picture can't know them); `total` sums a tensor over the ranks.
        """
        zero = torch.zeros_like(self._positions[0])
        sums = total(torch.cat([self._positions, torch.stack([self._sums.get(name, zero) for name in names])])).tolist()
        pictures, codes, pixels = sums[:3]
        means: dict[str, float] = {name: value / max(pictures, 1) for name, value in zip(names, sums[3:], strict=True)}
        if self._count_GK.numel():
            means |= code_statistics(total(self._count_GK).cpu())
        if self._codebook_size:
            means["bits_per_pixel"] = codes * math.log2(self._codebook_size) / max(pixels, 1)
        return {**means, "samples": int(pictures)}


Taps = tuple[list[Tensor], list[Tensor]]
"""LPIPS.features of the originals and of the reconstructions."""


class EvaluationSums:
    """The originals' hash and, with a network, features of reconstructions and, if requested, of originals."""

    def __init__(
        self, network: FeatureNetwork | None, device: torch.device, *, kept: int = KEPT, originals: bool = True
    ):
        self.hash = PictureHash(device)
        self._network = network
        self._measured = SetSums(network, device, kept) if network is not None else None
        self._originals = SetSums(network, device, kept) if network is not None and originals else None

    def add(
        self,
        pixels_BCHW: Tensor,
        recon_BCHW: Tensor,
        keys: Sequence[str],
        lpips: LPIPS | None = None,
        taps: Taps | None = None,
    ) -> None:
        """Add originals and their reconstructions, uint8. `taps` of `lpips` are reused if it is the feature network.

        Only the first len(keys) pictures count; the others fill the batch.
        """
        count = len(keys)
        self.hash.add(pixels_BCHW[:count])
        if self._network is None:
            return
        known = taps if isinstance(self._network, Vgg16) and self._network.lpips is lpips else None
        for number, (sums, shown_BCHW) in enumerate(((self._originals, pixels_BCHW), (self._measured, recon_BCHW))):
            if sums is not None:
                features = Vgg16.of_taps(known[number]) if known else self._network(shown_BCHW)
                sums.add({kind: h_BD[:count] for kind, h_BD in features.items()}, keys)

    def originals_set(self, source: str, digest: str, transform: TransformConfig, ranks: Ranks) -> MeasuredSet:
        """The originals over all ranks, as the reference; every rank must call it."""
        assert self._originals is not None
        statistics = self._originals.result(ranks.sum, ranks.gather)
        return MeasuredSet(statistics, describe(source, digest, statistics, transform, (transform.size,) * 2))

    def reconstructions(self, ranks: Ranks) -> SetStatistics:
        """The reconstructions over all ranks; every rank must call it."""
        assert self._measured is not None
        return self._measured.result(ranks.sum, ranks.gather)

    def distances(self, ranks: Ranks) -> dict[str, float]:
        """The reconstructions' distances from the originals, computed on rank 0; every rank must call it."""
        assert self._network is not None
        assert self._originals is not None
        originals, measured = self._originals.result(ranks.sum, ranks.gather), self.reconstructions(ranks)
        return ranks.gather(figures(self._network, measured, originals) if ranks.rank == 0 else None)[0]


def measure(
    tokenizer: Tokenizer,
    batches: Iterable[PictureBatch],
    lpips: LPIPS | None,
    *,
    device: torch.device,
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    sums: EvaluationSums | None = None,
    rows: int = 0,
) -> dict[str, float]:
    """PSNR, SSIM, LPIPS and codebook use over this rank's batches and, through `total`, the other ranks'.

    Keys: psnr (dB), ssim (pictures of 11 pixels and more), lpips, codes_used, codebook_usage, entropy_bits (per code),
    perplexity, bits_per_pixel (at log2 K bits a code), samples. `tokenizer` is in evaluation mode. `sums` takes what
    distances between sets need. Batches are filled up to `rows` pictures, so that figures don't depend on the number of
    ranks.
    """
    scores = Scores(tokenizer.codebook_size, device, tokenizer.codebooks)
    size = getattr(tokenizer.transform, "size", WINDOW)
    names = ("psnr", *(["ssim"] if size >= WINDOW else []), *(["lpips"] if lpips is not None else []))
    for batch in batches:
        count = len(batch.keys)
        pixels_BCHW = filled(batch.pixels_BCHW, rows).to(device, non_blocking=True)
        x_BCHW = to_float(pixels_BCHW)
        with torch.no_grad():
            recon_BCHW, idx_Bhw = tokenizer.reconstruct(x_BCHW)
            rounded_BCHW = to_uint8(recon_BCHW)
            values = {"psnr": psnr(rounded_BCHW, pixels_BCHW)}
            if "ssim" in names:
                values["ssim"] = ssim(rounded_BCHW, pixels_BCHW)
            taps = None
            if lpips is not None:
                taps = lpips.features(x_BCHW), lpips.features(to_float(rounded_BCHW))
                values["lpips"] = lpips.distance(taps[1], taps[0])
            if sums is not None:
                sums.add(pixels_BCHW, rounded_BCHW, batch.keys, lpips, taps)
        values = {name: score_B[:count] for name, score_B in values.items()}
        scores.add(values, None if idx_Bhw is None else idx_Bhw[:count], x_BCHW[:count])
    return scores.result(names, total)
