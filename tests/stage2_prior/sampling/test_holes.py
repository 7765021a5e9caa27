from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures.transforms import to_float
from data.reading.stream import every_sample
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.tokenizer.pil import as_batch
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.sampling import InpaintConfig
from stage2_prior.inpaint import inpaint
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import build_prior, load_prior
from stage2_prior.priors.depth import DepthPrior
from stage2_prior.priors.filling import still_masked
from stage2_prior.priors.masked import MaskedPrior
from stage2_prior.priors.multiscale import MultiscalePrior
from stage2_prior.sampling.holes import hole, open_codes
from stage2_prior.sampling.pictures import Picture, uniforms
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.tiny import CLASSES, SOURCE, random_codes, tiny_prior, write_tokenizer

QUANTIZERS: dict[str, dict[str, Any]] = {
    "masked": {},
    "autoregressive": {},
    "depth": {"kind": "residual", "codebooks": 2},
    "multiscale": {"kind": "multiscale", "scales": [1, 2, 4]},
}


def settings(coded: Coded, out: Path, **changes: Any) -> InpaintConfig:
    defaults = {"count": 2, "batch_size": 3, "guidance": 2.0, "limit": 4, "steps": 3, "given": coded.held_out}
    return InpaintConfig(prior="", tokenizer=coded.tokenizer, out=str(out), **(defaults | changes))


def prepared(coded: Coded, place: Path, kind: str, **changes: Any) -> InpaintConfig:
    """Settings for a fresh prior of a kind and a tokenizer of its form."""
    folder = write_tokenizer(place / "tokenizer", **QUANTIZERS[kind]) if QUANTIZERS[kind] else coded.tokenizer
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.transform is not None
    torch.manual_seed(0)
    model = PriorModelConfig(kind=kind, layers=1, depth_layers=1, width=16, heads=2)  # type: ignore[arg-type]
    source = CodeSource.of_tokenizer(tokenizer, tokenizer.transform)
    prior = build_prior(model, source, CLASSES, tokenizer.quantizer)
    with torch.no_grad():
        for weight in prior.lm.parameters():  # so that the class makes a difference
            if weight.ndim == 2:
                weight.mul_(8)
    prior.save_pretrained(place / "prior")
    return replace(settings(coded, place / "out", **changes), prior=str(place / "prior"), tokenizer=folder)


def drawn_codes(out: Path) -> torch.Tensor:
    """All codes, idx_XN, in the order of the pictures."""
    codes = np.concatenate([np.load(path) for path in sorted((out / "codes").iterdir())])
    return torch.from_numpy(codes.astype(np.int64)).flatten(1)


@pytest.mark.parametrize(
    ("kind", "keep"), [("masked", "border"), ("multiscale", "left"), ("autoregressive", "top"), ("depth", "top")]
)
def test_what_is_given_stays_and_the_rest_is_drawn(kind: str, keep: str, coded: Coded, tmp_path: Path):
    config = prepared(coded, tmp_path, kind, keep=keep)
    assert inpaint(config) == 0
    tokenizer = Tokenizer.from_pretrained(config.tokenizer)
    assert tokenizer.transform is not None
    batch = next(every_sample(coded.held_out, tokenizer.transform, batch_size=4, limit=4))
    idx_4N = tokenizer.encode(to_float(batch.pixels_BCHW)).flatten(1)
    open_N = load_prior(config.prior).open_codes(hole(config, (16, 16)))
    found_8N = drawn_codes(tmp_path / "out")
    assert torch.equal(found_8N[:, ~open_N], idx_4N.repeat(2, 1)[:, ~open_N])
    changed_8N = found_8N[:, open_N] != idx_4N.repeat(2, 1)[:, open_N]
    assert changed_8N.float().mean() > 0.5, "a fresh prior seldom draws what was there"
    assert not torch.equal(found_8N[:4], found_8N[4:]), "the two results of a picture differ"
    wide, high = Image.open(tmp_path / "out" / "grid.png").size
    assert (wide, high) == (4 * 16 + 3 * 2, 4 * 16 + 3 * 2), "picture, hole and two results for each of four"
    hole_HW = np.asarray(Image.open(next((tmp_path / "out").glob("0000 */hole.png"))))
    shown = np.asarray(Image.open(tmp_path / "out" / "grid.png")).astype(int)
    inside = hole(config, (16, 16)).numpy()
    assert np.array_equal(shown[:16, :16], batch.pixels_BCHW[0, 0].numpy())
    assert np.array_equal(shown[:16, 18:34], hole_HW)
    assert np.array_equal(hole_HW[~inside], shown[:16, :16][~inside]) and set(hole_HW[inside].tolist()) == {191}


@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_each_open_position_is_filled_once_and_shared_out_to_the_steps(order: str, monkeypatch: pytest.MonkeyPatch):
    prior, seen, real = tiny_prior(kind="masked", spread=3.0), [], MaskedPrior.logits
    mask = prior.vocabulary.mask

    def logits(self: MaskedPrior, code_BN: torch.Tensor, token_B: torch.Tensor) -> torch.Tensor:
        seen.append(code_BN[:2].clone())
        return real(self, code_BN, token_B)

    monkeypatch.setattr(MaskedPrior, "logits", logits)
    drawing = Drawing(order=order, steps=4, guidance=2.0)  # type: ignore[arg-type]
    given_BN = random_codes(2)
    given_BN[0, :6], given_BN[1, 3:] = -1, -1
    pictures = [Picture(0, 0), Picture(2, 0)]
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 2]))
    final_BN = prior.sample(token_B, uniforms(0, pictures, prior.draws(drawing)), drawing, given_BN)
    states = [*seen, final_BN]
    assert torch.equal(states[0], given_BN.where(given_BN >= 0, mask))
    for before, after in itertools.pairwise(states):
        assert torch.equal(after[before != mask], before[before != mask]), "what is there stays"
    left = [(state == mask).sum(1).tolist() for state in states]
    assert left == [[round(count * still_masked(step, 4)) for count in (6, 9)] for step in range(5)]


def test_guidance_reaches_the_hole(coded: Coded, tmp_path: Path):
    config = prepared(coded, tmp_path, "masked", guidance=1.0, count=1)
    for scale in (1.0, 30.0):
        assert inpaint(replace(config, guidance=scale, out=str(tmp_path / f"{scale}"))) == 0
    assert not torch.equal(drawn_codes(tmp_path / "1.0"), drawn_codes(tmp_path / "30.0"))


def test_a_mask_from_a_picture_and_pictures_from_files(coded: Coded, tmp_path: Path):
    random = np.random.default_rng(0)
    (tmp_path / "given").mkdir()
    for name in ("one", "two"):
        Image.fromarray(random.integers(0, 255, (20, 24), dtype=np.uint8)).save(tmp_path / "given" / f"{name}.png")
    light_HW = np.zeros((8, 8), np.uint8)
    light_HW[:2, 4:] = 255  # the upper right, a row and two columns of codes
    Image.fromarray(light_HW).save(tmp_path / "mask.png")
    mask, given = str(tmp_path / "mask.png"), str(tmp_path / "given")
    config = prepared(coded, tmp_path, "masked", mask=mask, given=given, classes=["star"])
    assert inpaint(config) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [
        "0000 one",
        "0001 two",
        "codes",
    ]
    tokenizer = Tokenizer.from_pretrained(coded.tokenizer)
    idx_16 = tokenizer.encode(as_batch(Image.open(tmp_path / "given" / "one.png"), tokenizer.transform)).flatten()
    kept_16 = torch.ones(16, dtype=torch.bool)
    kept_16[2:4] = False
    assert torch.equal(drawn_codes(tmp_path / "out")[0, kept_16], idx_16[kept_16])


def test_parts_of_codes_open_where_the_hole_touches_them():
    config = InpaintConfig(prior="", tokenizer="", out="", given="x", keep="left", share=0.5)

    def opened(prior: type[Prior], **shape: Any) -> list[bool]:
        stand_in: Any = SimpleNamespace(source=replace(SOURCE, **shape))
        return prior.open_codes(stand_in, hole(config, (12, 12))).tolist()

    assert opened(MaskedPrior, grid=(2, 3)) == [False, True, True] * 2, "the middle one lies half in it"
    assert opened(DepthPrior, grid=(2, 3), codebooks=2) == [False, True, True] * 4
    assert opened(MultiscalePrior, grid=(3, 3), scales=(1, 3)) == [False] + [False, False, True] * 3
    for keep in ("top", "bottom", "left", "right", "middle", "border"):
        share = (~hole(replace(config, keep=keep), (12, 12))).float().mean().item()  # type: ignore[arg-type]
        assert share == {"middle": 0.25, "border": 0.75}.get(keep, 0.5)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("autoregressive", {"keep": "left"}, "keep=left with share=0.5 keeps codes after the hole"),
        ("autoregressive", {"keep": "top", "share": 0.01}, "leaves no code in place: choose another share"),
        ("masked", {"classes": ["star", "star"]}, "names 2 classes for 4 pictures"),
        ("masked", {"given": "nowhere"}, "given=nowhere is no picture"),
        ("masked", {"mask": "nowhere.png"}, "mask=nowhere.png can't be read"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(
    kind: str, changes: dict[str, Any], message: str, coded: Coded, tmp_path: Path
):
    config = prepared(coded, tmp_path, kind, **changes)
    with pytest.raises(UserError, match=message) as caught:
        inpaint(config)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_an_index_of_codes_is_no_set_of_given_pictures(coded: Coded, tmp_path: Path):
    with pytest.raises(UserError, match=r"given=.* holds codes, not pictures"):
        inpaint(prepared(coded, tmp_path, "masked", given=coded.held_out_codes))


def test_codes_without_a_place_are_refused():
    config = InpaintConfig(prior="", tokenizer="", out="", given="x")
    with pytest.raises(UserError, match="have no place in the picture"):
        open_codes(hole(config, (12, 12)), tiny_prior(source=replace(SOURCE, grid=(12,))))
    with pytest.raises(ValueError, match=r"share=1\.0 is out of range: set it to a number in \(0, 1\)"):
        replace(config, share=1.0)
