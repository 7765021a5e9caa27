"""Figures of a tokenizer over batches, by stand-ins whose values are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.pictures.batches import PictureBatch
from data.pictures.transforms import to_float, to_uint8
from stage1_tokenizer.measuring.distances import SetSums, figures
from stage1_tokenizer.measuring.features import FeatureNetwork
from stage1_tokenizer.measuring.scores import EvaluationSums, measure, psnr, ssim

CPU = torch.device("cpu")
ONE_RANK: Any = SimpleNamespace(rank=0, sum=lambda tensor: tensor, gather=lambda value: [value])


class Darker:
    """A tokenizer that halves what is there, with one code for each picture: its number."""

    codebook_size, codebooks = 32, 1

    def __init__(self, size: int):
        self.transform = SimpleNamespace(size=size)
        self.seen: list[int] = []

    def reconstruct(self, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(len(x_BCHW))
        return x_BCHW / 2, torch.arange(len(x_BCHW)).view(-1, 1, 1)


class Lpips:
    """In place of LPIPS: the features of a picture are its mean, the distance their difference."""

    def features(self, x_BCHW: torch.Tensor) -> list[torch.Tensor]:
        return [x_BCHW.mean((1, 2, 3))]

    def distance(self, features: list[torch.Tensor], reference: list[torch.Tensor]) -> torch.Tensor:
        return reference[0] - features[0]


class Corners(FeatureNetwork):
    """Features: three pixels of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.widths = {"pool": 3}
        self.names = {name: name for name in ("frechet", "kid", "precision", "recall")}

    def forward(self, pixels_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pool": pixels_BCHW[:, 0, 0, :3].float()}


def batches(size: int, *counts: int) -> list[PictureBatch]:
    generator = torch.Generator().manual_seed(0)
    return [
        PictureBatch(
            step,
            torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator),
            torch.full((count,), -1),
            [f"{step}-{number}" for number in range(count)],
        )
        for step, count in enumerate(counts)
    ]


@pytest.mark.parametrize("rows", [0, 4])
def test_figures_are_means_over_the_pictures_that_count(rows: int) -> None:
    given, tokenizer = batches(12, 4, 3), Darker(12)
    sums = EvaluationSums(Corners(), CPU)
    found = measure(tokenizer, given, Lpips(), device=CPU, sums=sums, rows=rows)  # type: ignore[arg-type]
    assert tokenizer.seen == ([4, 4] if rows else [4, 3]), "a short batch is filled up"
    pixels = torch.cat([batch.pixels_BCHW for batch in given])
    recon = to_uint8(to_float(pixels) / 2)
    assert found["psnr"] == pytest.approx(psnr(recon, pixels).mean().item())
    assert found["ssim"] == pytest.approx(ssim(recon, pixels).mean().item())
    lpips = (to_float(pixels) - to_float(recon)).mean((1, 2, 3))
    assert found["lpips"] == pytest.approx(lpips.mean().item(), abs=1e-6)
    assert (found["samples"], found["codes_used"]) == (7, 4)
    assert found["bits_per_pixel"] == pytest.approx(5 / 144)
    plain = []
    for shown in (recon, pixels):
        one = SetSums(Corners(), CPU)
        one.add(Corners()(shown), [key for batch in given for key in batch.keys])
        plain.append(one.result())
    assert sums.distances(ONE_RANK) == pytest.approx(figures(Corners(), *plain))
    assert figures(Corners(), *plain)["frechet"] > 1


def test_small_pictures_have_no_ssim_and_lpips_is_optional() -> None:
    for size, named in ((10, set()), (11, {"ssim"})):
        found = measure(Darker(size), batches(size, 2), None, device=CPU)  # type: ignore[arg-type]
        assert found.keys() & {"ssim", "lpips"} == named


def test_another_rank_takes_the_distances_from_the_first() -> None:
    sums = EvaluationSums(Corners(), CPU)
    first = {"frechet": 1.5}
    seen: list[Any] = []

    def gather(value: Any) -> list[Any]:
        seen.append(value)
        return [first if value is None else value, value]

    other: Any = SimpleNamespace(rank=1, sum=lambda tensor: tensor, gather=gather)
    for batch in batches(12, 5):
        sums.add(batch.pixels_BCHW, batch.pixels_BCHW, batch.keys)
    sums_of_both = EvaluationSums(Corners(), CPU, originals=False)
    sums_of_both.add(batch.pixels_BCHW, batch.pixels_BCHW, batch.keys)
    assert sums_of_both.reconstructions(ONE_RANK).count == 5
    assert sums.reconstructions(ONE_RANK).count == 5
    sums._measured = sums._originals = SimpleNamespace(result=lambda total, gather: None)  # type: ignore[assignment]
    assert sums.distances(other) == first and seen == [None]


def test_without_a_network_only_the_originals_are_hashed() -> None:
    one, other = EvaluationSums(None, CPU), EvaluationSums(None, CPU)
    (batch,) = batches(12, 4)
    one.add(batch.pixels_BCHW, batch.pixels_BCHW, batch.keys)
    other.add(batch.pixels_BCHW, batch.pixels_BCHW, batch.keys[:3])
    assert one.hash.result() != other.hash.result(), "only the pictures that count"
