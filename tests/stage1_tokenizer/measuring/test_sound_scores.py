"""Figures of sounds: beside a plain loop, for odd clips, by number of codebooks; what decides comparisons."""

from __future__ import annotations

import copy
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from data.reading.stream import every_sample
from data.sounds.batches import SoundBatch, to_float, to_int16
from data.sounds.config import SoundConfig
from launch.command.cli import UserError
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.config.model import ModelConfig, QuantizerConfig
from stage1_tokenizer.config.sound_networks import VocosConfig
from stage1_tokenizer.losses.spectral import mel_distance
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer
from stage1_tokenizer.measuring.intelligibility import intelligibility
from stage1_tokenizer.measuring.results import report
from stage1_tokenizer.measuring.sound_metrics import MOST, definitions, figures_of, names, si_sdr, silent
from stage1_tokenizer.measuring.sound_scores import levels, measure_sounds, rates
from stage1_tokenizer.media import MEDIA
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.sound_clips import clips

SPEECH = str(tiny.ROOT / "data" / "samples" / "speech" / "held_out.json")
CPU = torch.device("cpu")


def tokenizer(codebooks: int = 3, strides: list[int] | None = None, channels: int = 1) -> Tokenizer:
    torch.manual_seed(0)
    quantizer = QuantizerConfig(
        kind="residual", codebooks=codebooks, codebook_size=16, code_dim=8, strides=strides or []
    )
    config = ModelConfig(
        backbone="vocos",
        spatial_dims=1,
        in_channels=channels,
        z_channels=8,
        vocos=VocosConfig(hop=128, window=256, width=16, blocks=[1, 1]),
        quantizer=quantizer,
    )
    return Tokenizer(config, SoundConfig(sample_rate=8000, length=4096, channels=channels)).eval()


def batch_of(x_BCT: Tensor, lengths: list[int]) -> SoundBatch:
    samples_BCT = to_int16(x_BCT)
    for row, length in enumerate(lengths):
        samples_BCT[row, :, length:] = 0
    keys = [str(number) for number in range(len(lengths))]
    return SoundBatch(0, samples_BCT, torch.tensor(lengths), torch.full((len(lengths),), -1), keys)


def test_figures_are_those_of_a_plain_loop() -> None:
    model = tokenizer()
    noise = torch.randn(3, 1, 4096, generator=torch.Generator().manual_seed(0)) * 0.1
    batch = batch_of(noise, [4096, 4000, 4096])
    found = measure_sounds(model, [batch], device=CPU, by_books=True)
    assert levels(model) == [1, 2, 3]
    assert [one["books"] for one in found["by_books"]] == [1, 2, 3]
    x_BCT = to_float(batch.samples_BCT)
    codes = model.encode(x_BCT)
    for one in found["by_books"]:
        y_BCT = to_float(to_int16(model.decode(codes[:, : one["books"]])))
        values: dict[str, list[float]] = {"mel_distance": [], "l1": [], "si_sdr": [], "stoi": []}
        for row, length in enumerate((4096, 4000, 4096)):
            y, x = (wave[row : row + 1, :, :length].double() for wave in (y_BCT, x_BCT))
            values["mel_distance"].append(float(mel_distance(y, x, 8000)))
            values["l1"].append(float((y - x).abs().mean()))
            centred = [wave[0, 0] - wave.mean() for wave in (y, x)]
            target = torch.dot(*centred) / centred[1].square().sum() * centred[1]
            ratio = target.square().sum() / (centred[0] - target).square().sum()
            values["si_sdr"].append(10 * math.log10(float(ratio)))
            values["stoi"].append(intelligibility(x[0, 0].numpy(), y[0, 0].numpy(), 8000)[0])
        for name, each in values.items():
            assert one[name] == pytest.approx(sum(each) / 3, rel=1e-9), name
        assert one["bits_per_second"] == one["books"] * 4 * 8000 / 128
        assert one["frames_per_second"] == 8000 / 128
    assert found["samples"] == 3
    assert {name: found[name] for name in names() if name in found} == {
        name: value for name, value in found["by_books"][-1].items() if name in names()
    }
    codes_GN = torch.cat([codes[row, :, : -(-length // 128)] for row, length in enumerate((4096, 4000, 4096))], 1)
    used = [len(torch.unique(codes_N)) for codes_N in codes_GN]
    assert found["codes_used"] == sum(used)
    assert found["usage_by_book"] == [count / 16 for count in used]


def test_batches_and_ranks_do_not_matter() -> None:
    model = tokenizer()
    noise = torch.randn(4, 1, 4096, generator=torch.Generator().manual_seed(0)) * 0.1
    lengths = [4096, 700, 4096, 3000]
    whole = measure_sounds(model, [batch_of(noise, lengths)], device=CPU, rows=4)
    parts = [batch_of(noise[row : row + 1], lengths[row : row + 1]) for row in range(4)]
    alone = measure_sounds(model, parts, device=CPU, rows=4, total=lambda tensor: 2 * tensor)
    assert alone.pop("samples") == 8
    assert whole.pop("samples") == 4
    assert alone == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("name", clips())
def test_odd_clips_have_figures_and_no_nan(name: str) -> None:
    x = clips()[name]
    count, channels, length = x.shape
    padded = torch.zeros(count, channels, 4096)
    padded[..., :length] = x
    batch = batch_of(padded, [length] * count)
    found = measure_sounds(tokenizer(channels=channels), [batch], device=CPU, by_books=True)
    every = [value for one in [found, *found["by_books"]] for value in one.values() if isinstance(value, float | int)]
    assert all(map(math.isfinite, every))
    quiet = bool(silent(to_float(to_int16(x))).all())
    assert ("si_sdr" in found) == (not quiet)
    assert quiet == (name in ("silence", "offset", "one step", "one sample"))


def test_equal_and_opposite_sounds_have_the_extremes() -> None:
    x = clips()["tone"]
    same = figures_of(x, x, 8000)
    assert same["si_sdr"].tolist() == [MOST, MOST]
    for name in ("mel_distance", "stft_distance", "l1"):
        assert same[name].tolist() == [0, 0]
    assert si_sdr((0.1 * x).double(), x.double(), 8000).min() > 99, "the scale doesn't matter"
    assert si_sdr((0.5 * x + 0.2).double(), x.double(), 8000).min() > 99, "nor does an offset"


def test_pesq_is_measured_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class PesqError(Exception):
        """As the package's."""

    calls: list[tuple[int, str]] = []

    def pesq(rate: int, x_T: Any, y_T: Any, band: str) -> float:
        calls.append((rate, band))
        if abs(x_T).max() < 0.2:
            raise PesqError
        return 3.5

    module = types.ModuleType("pesq")
    module.__spec__ = types.SimpleNamespace(name="pesq")  # type: ignore[assignment]
    module.pesq, module.PesqError = pesq, PesqError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pesq", module)
    monkeypatch.setattr("stage1_tokenizer.measuring.sound_metrics.version", lambda name: "0.0.4")
    x = clips()["tone"] * torch.tensor([1.0, 0.1])[:, None, None]
    for rate, expected in ((8000, (8000, "nb")), (16_000, (16_000, "wb")), (24_000, (16_000, "wb"))):
        values = figures_of(x, x, rate)["pesq"].tolist()
        assert values[0] == 3.5
        assert math.isnan(values[1])
        assert calls[-1] == expected
        assert f"pesq 0.0.4, {'narrow' if rate == 8000 else 'wide'} band" in definitions(rate)["pesq"]["definition"]


def test_rates_count_codes_that_several_frames_share() -> None:
    model = tokenizer(strides=[4, 2, 1])
    frames = 8000 / 128
    assert [rates(model, books)["bits_per_second"] for books in (1, 2, 3)] == pytest.approx(
        [frames * 4 / 4, frames * 4 * 3 / 4, frames * 4 * 7 / 4]
    )


@pytest.fixture
def released(tmp_path: Path) -> Path:
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def config(released: Path, name: str = "e.json", **changes: Any) -> EvaluateConfig:
    values = {"samples": 6, "batch_size": 4, "data": SPEECH, **changes}
    return EvaluateConfig(tokenizer=str(released), out=str(released.parent / name), **values)


def test_an_evaluation_says_what_was_measured_and_can_be_heard(released: Path) -> None:
    folder = released.parent / "heard"
    found = evaluate_tokenizer(config(released, sounds=str(folder), picture_count=3))
    assert json.loads((released.parent / "e.json").read_text()) == found
    measured = found["measured"]
    assert measured["metrics"] == definitions(8000)
    assert {"data", "data_hash", "transform", "fingerprint", "version"} <= measured.keys()
    assert found["samples"] == 6
    assert "lpips" not in found
    (batch,) = every_sample(SPEECH, tokenizer().transform, batch_size=8, limit=3)  # type: ignore[arg-type]
    for row, length in enumerate(batch.lengths_B.tolist()):
        samples_T, rate = soundfile.read(folder / f"{row:02d}-original.flac", dtype="int16")
        assert rate == 8000
        assert (torch.from_numpy(samples_T) == batch.samples_BCT[row, 0, :length]).all()
        for name in ("-books-1", "-books-2", ""):
            assert len(soundfile.read(folder / f"{row:02d}{name}.flac")[0]) == length
    assert Image.open(folder / "spectrograms.png").size == (4 * 196 - 4, 3 * 100 - 4)
    comparable, lines = report(found, evaluate_tokenizer(config(released, "again.json", batch_size=2)))
    assert comparable
    assert any("stoi" in line for line in lines[lines.index("comparable:") :])


def test_settings_of_pictures_and_loose_files_are_refused(released: Path) -> None:
    with pytest.raises(UserError, match="reference is not supported with sounds"):
        evaluate_tokenizer(config(released, reference=SPEECH))
    with pytest.raises(UserError, match="is not an index or tars, from which sounds are measured"):
        evaluate_tokenizer(config(released, data=str(Path(SPEECH).parent)))
    with pytest.raises(UserError, match="is a file, not a folder"):
        evaluate_tokenizer(config(released, sounds=SPEECH))
    tiny.tokenizer().save_pretrained(released.parent / "of_pictures")
    with pytest.raises(UserError, match="a tokenizer of pictures"):
        evaluate_tokenizer(config(released.parent / "of_pictures", sounds=str(released.parent / "heard")))


def test_figures_of_another_definition_are_not_compared() -> None:
    one: dict[str, Any] = {"mel_distance": 1.0, "stoi": 0.9, "measured": {"version": 1, "metrics": definitions(8000)}}
    other = copy.deepcopy(one)
    other["measured"]["metrics"]["mel_distance"] = definitions(16_000)["mel_distance"]
    comparable, lines = report(one, other)
    assert comparable
    assert "not comparable, because their conditions differ: mel_distance" in lines
    assert [line.split(":")[0].strip() for line in lines[lines.index("comparable:") + 1 :]] == ["stoi"]
    other["measured"]["metrics"] = definitions(16_000)
    assert definitions(8000)["stoi"] == definitions(16_000)["stoi"], "it is resampled"
    del one["stoi"], other["stoi"]
    assert not report(one, other)[0]


def test_held_out_clips_are_shown_in_training(tmp_path: Path) -> None:
    MEDIA["sounds"].show(tmp_path / "step-000000007", tokenizer(), SPEECH)
    assert len(list((tmp_path / "step-000000007").glob("*-original.flac"))) == 8
    assert Image.open(tmp_path / "step-000000007.png").size == (2 * 196 - 4, 8 * 100 - 4)
