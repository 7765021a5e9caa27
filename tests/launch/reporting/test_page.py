"""The report: everything it promises is on the page, and nothing that needs the network."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from launch.command.cli import UserError
from launch.reporting import page as report
from launch.reporting.charts import Line, line_chart, number, use_chart
from launch.run.metrics import MetricFile
from tests.browser import Browser


def picture(path: Path, seed: int, side: int = 28) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def fake_run(folder: Path, names: dict[str, float], evaluation: str) -> None:
    folder.mkdir(parents=True)
    file = MetricFile(folder)
    for step in range(49, 2000, 50):
        file.write(step, {name: start * math.exp(-step / 600) + 0.1 for name, start in names.items()}, "train")
        if step % 500 == 499:
            file.write(step + 1, {evaluation: 5 * math.exp(-step / 900)}, "eval")
    (folder / "config.yaml").write_text("run:\n  folder: <b>x</b>\n")
    (folder / "run.json").write_text(json.dumps({"argv": ["train.py", "--config", "a.yaml"], "commit": "abc"}))


@pytest.fixture
def outcome(tmp_path: Path) -> Path:
    losses = {"loss/rec": 0.5, "loss/perceptual": 0.7, "codes/perplexity": 90.0, "rate/pictures_per_second": 800.0}
    fake_run(tmp_path / "tokenizer-run", losses, "eval/psnr")
    fake_run(tmp_path / "prior-run", {"loss/nll_bits": 6.0}, "eval/bits_per_code")
    MetricFile(tmp_path / "tokenizer-run").write(
        899, {"monitor/codebook": "codebook: perplexity 2, try <more>"}, "event"
    )
    for label in range(3):
        for count in range(12):
            picture(tmp_path / "samples" / str(label) / f"{count:05d}.png", 100 * label + count)
    picture(tmp_path / "evaluation" / "reconstructions.png", 7, 200)
    codes = {"meta": {"histogram": [max(0, 300 - index) for index in range(310)]}}
    (tmp_path / "codes" / "train").mkdir(parents=True)
    (tmp_path / "codes" / "train" / "index.json").write_text(json.dumps(codes))
    figures: dict[str, Any] = {
        "tokenizer": {"psnr": 21.43, "lpips": 0.0571, "codebook_usage": 0.987},
        "prior": {"bits_per_code": 3.21},
        "samples": {"class_agreement": 0.932, "count": 500},
        "seconds": {"tokenizer": 301.0, "prior": 120.4, "total": 421.4},
        "data": "mnist",
        "hardware": "2 CPU cores",
        "commit": "0123abcd",
        "versions": {"torch": "2.13.0"},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(figures))
    return tmp_path


def test_the_page_shows_all_it_promises(outcome: Path) -> None:
    page = report.write(outcome).read_text()
    for shown in ("21.43", "0.0571", "98.7 %", "3.21", "93.2 %", "7 min 1 s", "300 of 310 codes are used"):
        assert shown in page
    for name in ("loss/rec", "loss/perceptual", "loss/nll_bits", "eval/bits_per_code", "eval/psnr"):
        assert name in page
    assert re.search(r"step 899</td><td>codebook: perplexity 2, try &lt;more&gt;</td>", page)
    assert page.count("a sample of") == 30
    assert "originals beside their reconstructions" in page
    assert "2 CPU cores" in page
    assert "0123abcd" in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_samples_of_texts_are_cards_of_the_first_ones(outcome: Path) -> None:
    described = []
    for i in range(report.CAPTIONS + 3):
        picture(outcome / "samples" / f"{i} text" / "00000.png", i)
        described.append({"name": f"a <text> of {i}", "folder": f"{i} text", "label": -1, "count": 1})
    (outcome / "samples" / "samples.json").write_text(json.dumps({"classes": described}))
    page = report.write(outcome).read_text()
    assert "<h2>Samples by text</h2>" in page
    assert page.count("<figcaption>a &lt;text&gt; of ") == page.count("a sample of") == report.CAPTIONS
    assert "and 3 more texts" in page


def test_the_page_needs_nothing_from_outside(outcome: Path) -> None:
    page = report.write(outcome).read_text()
    assert not re.search(r"<script|<link|@import|url\(|https?://", page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))


def sound(path: Path, seed: int) -> None:
    """A spectrogram, and beside it what stands for a sound."""
    picture(path.with_suffix(".png"), seed)
    path.write_bytes(b"fLaC" + bytes([seed]))


@pytest.fixture
def spoken(outcome: Path) -> Path:
    """A pipeline over sounds: samples by class, and clips with 1, 2 and all codebooks."""
    described = {"classes": [{"name": name, "folder": name} for name in ("English", "Russian")], "complete": True}
    shutil.rmtree(outcome / "samples")
    for label, one in enumerate(described["classes"]):  # type: ignore[arg-type, var-annotated]
        for count in range(6):
            sound(outcome / "samples" / one["name"] / f"{count:05d}.flac", 10 * label + count)
    (outcome / "samples" / "samples.json").write_text(json.dumps(described))
    for clip in range(2):
        for seed, name in enumerate(("-original", "", "-books-2", "-books-1")):
            sound(outcome / "evaluation" / "sounds" / f"{clip:02d}{name}.flac", 100 + 10 * clip + seed)
    figures = json.loads((outcome / "metrics.json").read_text())
    books = [{"books": count, "mel_distance": 2 - count / 4, "stoi": 0.5 + count / 10} for count in (1, 2, 4)]
    figures["tokenizer"] = {"mel_distance": 1.0123, "stoi": 0.8765, "bits_per_second": 1000.0, "by_books": books}
    (outcome / "metrics.json").write_text(json.dumps(figures))
    return outcome


def test_sounds_have_players_beside_their_spectrograms(spoken: Path) -> None:
    page = report.write(spoken).read_text()
    players = re.findall(r'<audio controls preload="none" src="data:audio/flac;base64,([^"]*)"></audio>', page)
    samples, clips = players[: 2 * report.SOUNDS_A_CLASS], players[2 * report.SOUNDS_A_CLASS :]
    heard = [base64.b64decode(player) for player in samples]
    assert heard == [b"fLaC" + bytes([10 * label + count]) for label in range(2) for count in range(4)]
    seeds = [base64.b64decode(player)[-1] for player in clips]
    assert seeds == [100, 103, 102, 101, 110, 113, 112, 111], "the original, 1 codebook, 2, and all"
    titles = re.findall(r"<figcaption>([^<]*)</figcaption>", page)
    assert titles == ["original", "1 codebook", "2 codebooks", "all codes"] * 2
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 2 * len(players), "a picture for each"
    assert all(source.startswith(("data:image/png;base64,", "data:audio/flac;base64,")) for source in sources)
    assert not re.search(r"<script|<link|@import|url\(|https?://", page)
    assert "originals beside their reconstructions" not in page, "the pictures of all clips together are left out"


def test_videos_move_in_the_page(outcome: Path) -> None:
    described = {"classes": [{"name": "a 3 moves right", "folder": "0000 a 3"}], "complete": True}
    shutil.rmtree(outcome / "samples")
    for name, names in (("samples", ("00000", "00001")), ("prediction", ("00000", "given"))):
        for seed, file in enumerate(names):
            path = outcome / name / "0000 a 3" / f"{file}.png"
            picture(path, seed)
            path.with_suffix(".webp").write_bytes(f"{name} {file}".encode())
        (outcome / name / "samples.json").write_text(json.dumps(described))
    (outcome / "evaluation" / "videos").mkdir()
    (outcome / "evaluation" / "videos" / "00.webp").write_bytes(b"a pair")
    figures = json.loads((outcome / "metrics.json").read_text())
    figures["prediction"] = {"direction_agreement": 0.91, "real_direction_accuracy": 1.0}
    (outcome / "metrics.json").write_text(json.dumps(figures))
    page = report.write(outcome).read_text()
    moving = [base64.b64decode(one) for one in re.findall(r'src="data:image/webp;base64,([^"]*)"', page)]
    assert moving == [b"samples 00000", b"samples 00001", b"prediction given", b"prediction 00000", b"a pair"]
    assert "how they go on" in page and "91.0 %" in page and "100.0 %" in page


def test_described_samples_stand_beside_their_captions(outcome: Path) -> None:
    described = [{"caption": "a <three>", "text": "a <three>"}, {"caption": "one", "text": "two"}]
    for name in ("00000", "00001"):
        picture(outcome / "captions" / f"{name}.png", 0)
    (outcome / "captions" / "captions.json").write_text(json.dumps({"samples": described}))
    figures = json.loads((outcome / "metrics.json").read_text())
    figures |= {"captions": {"exact_match": 0.712}, "retrieval": {"text_to_picture": 0.9}}
    (outcome / "metrics.json").write_text(json.dumps(figures))
    page = report.write(outcome).read_text()
    for caption in ("a &lt;three&gt;", "one <b>[two]</b>"):
        assert f"<figcaption>{caption}</figcaption>" in page
    assert "71.2 %" in page and "90.0 %" in page


def test_rate_and_quality_are_a_table_by_codebooks(spoken: Path) -> None:
    page = report.write(spoken).read_text()
    assert "Rate and quality" in page and "by_books" not in page
    rows = re.findall(
        r"<tr><td>(\d)</td><td class=\"number\">([\d.]+)</td><td class=\"number\">([\d.]+)</td></tr>", page
    )
    assert rows == [("1", "1.75", "0.6"), ("2", "1.5", "0.7"), ("4", "1", "0.9")]
    for shown in ("Mel distance", "1.012", "STOI", "0.8765", "Bits a second"):
        assert shown in page


def test_a_single_run_has_a_page_too(outcome: Path, tmp_path: Path) -> None:
    page = report.write(outcome / "prior-run", tmp_path / "page.html")
    assert "loss/nll_bits" in page.read_text()


def test_a_page_never_replaces_what_it_is_made_of(outcome: Path) -> None:
    for file in (outcome / "prior-run" / "metrics.jsonl", outcome / "metrics.json"):
        before = file.read_bytes()
        with pytest.raises(UserError, match=r"out=.* is a file that this command reads"):
            report.write(outcome, file)
        assert file.read_bytes() == before


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        report.write(tmp_path)


def curve(svg: str) -> list[str]:
    """The points of an SVG's first curve."""
    paths = [
        element.attrib["d"] for element in ElementTree.fromstring(svg).iter("path") if "--c0" in str(element.attrib)
    ]
    return re.findall(r"[ML] ([\d.]+ [\d.]+)", paths[0])


def test_charts_are_well_formed_and_leave_out_what_is_not_finite() -> None:
    svg = line_chart([Line("a & b", [0, 1, 2, 3], [1.0, math.nan, 1000.0, math.inf])], "<label>")
    assert len(curve(svg)) == 2
    assert ElementTree.fromstring(svg).attrib["aria-label"] == "<label>"
    ElementTree.fromstring(use_chart([5, 0, 2], "use"))
    assert line_chart([Line("nothing", [1], [math.nan])], "empty") == ""
    assert use_chart([0, 0], "unused") == ""


def test_the_same_data_gives_the_same_chart_in_the_page_s_colours() -> None:
    lines = [Line("one", [1, 2, 3], [0.1, 0.2, 0.3]), Line("two", [1, 2], [0.3, 0.2], dots=True)]
    svg = line_chart(lines, "both")
    assert svg == line_chart(lines, "both")
    assert not re.search(r"#[0-9a-f]{6}|<style|xmlns|DejaVu", svg)
    assert "one at step 2: 0.2" in svg and 'class="dot c1"' in svg
    assert len(use_chart([3, 2, 1], "use").split("% of all codes")) == 4


def test_long_curves_are_thinned_but_keep_their_end() -> None:
    svg = line_chart([Line("long", range(10_000), [1.0 + 0.001 * index for index in range(10_000)])], "long")
    assert len(svg) < 20_000
    assert "long at step 9999" in line_chart([Line("long", [*range(48), 9999], [1.0] * 49, dots=True)], "long")


def labels(svg: str) -> list[str]:
    return [str(element.text) for element in ElementTree.fromstring(svg).iter("text")]


def test_labels_are_few_and_round() -> None:
    assert labels(line_chart([Line("x", [0, 1000], [0.03, 0.11])], "x"))[:7] == [
        *("0", "250", "500", "750", "1000", "step", "0.05")
    ]
    assert {"0.1", "1", "10", "100"} <= set(labels(line_chart([Line("x", [0, 9], [0.02, 300])], "x")))
    assert labels(line_chart([Line("x", [5], [5.0])], "x"))[0] == "5"
    assert [number(value) for value in (0, 1234567, 25000, 0.25, 0.00012)] == ["0", "1.23M", "25k", "0.25", "1.20e-04"]


def test_a_browser_draws_it_without_overflow(outcome: Path, tmp_path: Path) -> None:
    page = report.write(outcome)
    with Browser(tmp_path / "profile", 1200, 2000) as browser:
        browser.open(page.as_uri())
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")
        broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
        assert browser.value(f"document.images.length && !({broken})")
        drawn = "[...document.querySelectorAll('svg')].every(svg => svg.getBoundingClientRect().width > 100)"
        assert browser.value(f"document.querySelectorAll('svg').length && {drawn}")
        pixels = np.asarray(Image.open(browser.screenshot(tmp_path / "shot.png")).convert("L"))
        assert not browser.errors
    assert pixels.shape[1] in (1185, 1200)  # with or without a scroll bar
    assert pixels.std() > 10
