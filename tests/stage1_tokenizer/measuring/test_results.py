"""Two results may be compared only where they were measured alike."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from launch.command.cli import UserError
from stage1_tokenizer.measuring.results import VERSION, compare, must_agree, report

RESULT: dict[str, Any] = {
    "psnr": 21.5,
    "frechet_vgg16": 12.25,
    "measured": {
        "version": VERSION,
        "fingerprint": "f" * 64,
        "data": "a/index.json",
        "data_hash": "1" * 64,
        "transform": {"size": 32},
        "samples": 1000,
        "lpips": "vgg, version 0.1",
        "features": {"network": "vgg16", "sha256": "2" * 64, "resize": "none", "kept": 10000},
        "reference": {"set": "a/index.json", "hash": "1" * 64, "pictures": 1000, "kept": 1000},
        "commit": "abc",
        "hardware": "2 CPU cores",
        "ranks": 1,
    },
}


def changed(key: str, value: object) -> dict[str, Any]:
    found = copy.deepcopy(RESULT)
    place = found["measured"]
    *outer, last = key.split(".")
    for part in outer:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", VERSION + 1),
        ("data_hash", "3" * 64),
        ("samples", 999),
        ("lpips", "alex, version 0.1"),
        ("features.network", "inception"),
        ("features.sha256", "3" * 64),
        ("features.resize", "to 299"),
        ("features.kept", 5000),
        ("reference.hash", "3" * 64),
        ("reference.pictures", 999),
        ("reference", None),
        ("something_new", 1),
    ],
)
def test_results_must_agree_on_how_they_were_measured(key: str, value: object):
    for pair in ((RESULT, changed(key, value)), (changed(key, value), RESULT)):
        comparable, lines = report(*pair)
        assert not comparable and must_agree(key)
        assert any(
            line.strip().startswith(key) for line in lines[lines.index("not comparable, because these must agree:") :]
        )
        assert not any("psnr" in line for line in lines), "no figures side by side"


@pytest.mark.parametrize(
    ("key", "value"),
    [("fingerprint", "e" * 64), ("commit", "d"), ("hardware", "H100"), ("ranks", 8), ("reference.set", "b/index.json")],
)
def test_the_subject_may_differ_and_is_reported(key: str, value: object):
    comparable, lines = report(RESULT, changed(key, value))
    assert comparable
    assert any(line.strip().startswith(f"{key}:") for line in lines)
    assert lines[-2:] == ["  psnr: 21.5 | 21.5", "  frechet_vgg16: 12.25 | 12.25"]


def test_figures_with_different_conditions_are_left_out():
    one, other = copy.deepcopy(RESULT), copy.deepcopy(RESULT)
    for result, tokenizer in ((one, "e" * 64), (other, "f" * 64)):
        result["bits_per_code"] = 3.5
        result["measured"]["codes"] = {"set": "codes/index.json", "tokenizer": tokenizer}
    comparable, lines = report(one, other)
    assert comparable and "not comparable, because their conditions differ: bits_per_code" in lines
    assert not any(line.startswith("  bits_per_code") for line in lines)
    assert "  bits_per_code: 3.5 | 3.5" in report(one, one)[1]


@pytest.mark.parametrize(("part", "figure"), [("codes", "bits_per_code"), ("classifier", "class_agreement")])
def test_figures_of_other_data_are_left_out_by_its_digest(part: str, figure: str):
    def result(digest: str | None, name: str) -> dict[str, Any]:
        one = copy.deepcopy(RESULT) | {figure: 3.5}
        place = {"codes": {"set": {"name": name}}, "classifier": {"data": {"name": name}}}[part]
        one["measured"][part] = place | ({"digest": digest} if digest else {})
        return one

    one = result("1" * 16, "birds")
    assert f"not comparable, because their conditions differ: {figure}" in report(one, result("2" * 16, "birds"))[1]
    for other in (result("1" * 16, "the same, renamed"), result(None, "birds")):  # an older one states no digest
        assert f"  {figure}: 3.5 | 3.5" in report(one, other)[1]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = []
    for name, result in (("a", RESULT), ("b", changed("samples", 7)), ("c", {"psnr": 3})):
        files.append(str(tmp_path / f"{name}.json"))
        Path(files[-1]).write_text(json.dumps(result))
    assert compare([files[0], files[0]]) == 0
    assert capsys.readouterr().out.startswith("comparable:\n")
    assert compare(files[:2]) == 1
    assert "samples: 1000 | 7" in capsys.readouterr().out
    for words in (files, files[::2], [files[0], str(tmp_path / "nowhere.json")]):
        with pytest.raises(UserError):
            compare(words)
