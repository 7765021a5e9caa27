from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stage1_tokenizer.measuring import scores
from stage1_tokenizer.measuring.scores import Scores, batch_use, code_statistics, psnr, ssim
from stage1_tokenizer.quantizers.usage import count_codes


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_that_of_its_formula():
    x, y = noise(0, 3, 1, 8, 8), noise(1, 3, 1, 8, 8)
    error = ((x[1].numpy().astype(float) - y[1].numpy()) ** 2).mean()
    assert float(psnr(x, y)[1]) == pytest.approx(10 * math.log10(255**2 / error), abs=1e-9)
    assert float(psnr(x, x)[0]) == 100
    one = x.clone()
    one[0, 0, 0, 0] = x[0, 0, 0, 0] ^ 1  # the least that two pictures can differ by
    assert float(psnr(x, one)[0]) == pytest.approx(10 * math.log10(255**2 * 64))


def test_ssim_is_that_of_its_formula():
    x, y = noise(0, 2, 1, 13, 12), noise(1, 2, 1, 13, 12)
    y[1] = (x[1].int() // 2 + 40).to(torch.uint8)
    at = np.arange(11) - 5
    weight = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for top in range(3):
        for left in range(2):
            a, b = (p[1, 0, top : top + 11, left : left + 11].numpy().astype(float) for p in (x, y))
            ma, mb = (weight * a).sum(), (weight * b).sum()
            va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
            cov = (weight * (a - ma) * (b - mb)).sum()
            c1, c2 = 6.5025, 58.5225
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert float(ssim(x, y)[1]) == pytest.approx(np.mean(values), abs=1e-9)
    assert torch.allclose(ssim(x, x), torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="smaller than SSIM's window"):
        ssim(x[..., :10], y[..., :10])


def test_code_statistics():
    found = code_statistics(torch.tensor([2, 2, 0, 0]))
    assert found == {"codes_used": 2, "codebook_usage": 0.5, "entropy_bits": 1.0, "perplexity": 2.0}
    nothing = {"codes_used": 0, "codebook_usage": 0.0, "entropy_bits": 0.0, "perplexity": 1.0}
    assert code_statistics(torch.zeros(4, dtype=torch.int64)) == nothing
    in_batch = batch_use(torch.tensor([[[0, 0], [3, 3]]]), 5)
    assert int(in_batch["codes/used"]) == 2 and float(in_batch["codes/perplexity"]) == pytest.approx(2)


def test_codes_of_several_codebooks_are_counted_apart():
    idx_BGhw = torch.tensor([[[[0, 1]], [[2, 2]]], [[[1, 1]], [[0, 2]]]])  # two pictures, two codebooks, 1×2
    count_GK = count_codes(idx_BGhw, 4, 2)
    assert count_GK.tolist() == [[1, 3, 0, 0], [1, 0, 3, 0]]
    found = code_statistics(count_GK)
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert found["codes_used"] == 4 and found["codebook_usage"] == 0.5
    assert found["entropy_bits"] == pytest.approx(entropy) and found["perplexity"] == pytest.approx(2**entropy)
    in_batch = batch_use(idx_BGhw, 4, 2)
    assert int(in_batch["codes/used"]) == 4
    assert float(in_batch["codes/perplexity"]) == pytest.approx(2**entropy)


def test_codebooks_too_large_to_count_have_no_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scores, "COUNTED", 8)
    idx = torch.zeros(1, 2, 2, dtype=torch.int64)
    assert batch_use(idx, 8) and batch_use(idx, 9) == {}
    for size in (8, 9):
        found = Scores(size, torch.device("cpu"))
        found.add({"psnr": torch.ones(1)}, idx, torch.zeros(1, 1, 4, 4))
        result = found.result(("psnr",))
        assert ("codes_used" in result) == (size == 8)
        assert result["bits_per_pixel"] == pytest.approx(4 * math.log2(size) / 16)


def test_scores_without_codes_or_pictures():
    found = Scores(0, torch.device("cpu"))
    assert found.result(("psnr",)) == {"psnr": 0, "samples": 0}
    found.add({"psnr": torch.tensor([3.0, 5.0])}, None, torch.zeros(2, 3, 4, 4))
    assert found.result(("psnr",)) == {"psnr": 4, "samples": 2}


def test_the_pixels_of_a_colour_are_one():
    found = Scores(16, torch.device("cpu"))
    found.add({"psnr": torch.ones(2)}, torch.zeros(2, 2, 2, dtype=torch.int64), torch.zeros(2, 3, 4, 8))
    assert found.result(("psnr",))["bits_per_pixel"] == pytest.approx(4 * 4 / 32)


def test_scores_of_parts_add_up_to_those_of_the_whole():
    x, idx = torch.zeros(5, 1, 16, 16), torch.randint(0, 32, (5, 8, 8))
    value = torch.arange(5.0)
    whole, first, second, empty = (Scores(32, torch.device("cpu")) for _ in range(4))
    whole.add({"psnr": value}, idx, x)
    first.add({"psnr": value[:2]}, idx[:2], x[:2])
    second.add({"psnr": value[2:]}, idx[2:], x[2:])
    # What an all-reduce over three ranks would give, the last of them without a picture.
    seen: list[list[torch.Tensor]] = []
    for part in (first, second, empty):
        seen.append([])
        part.result(("psnr",), lambda tensor: seen[-1].append(tensor.clone()) or tensor)  # type: ignore[func-returns-value]
    sums = [sum(tensors[1:], tensors[0]) for tensors in zip(*seen, strict=True)]
    together = empty.result(("psnr",), lambda tensor: sums.pop(0))
    assert together == whole.result(("psnr",))
    assert together["psnr"] == 2.0 and together["samples"] == 5
    assert together["bits_per_pixel"] == pytest.approx(5 * 64 / 256)  # 5 bits a code, 64 codes on 256 pixels
