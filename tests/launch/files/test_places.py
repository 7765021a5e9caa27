"""Names instead of places."""

from pathlib import Path

import pytest

from launch.files.places import is_place, without_folder, without_places, word_without_places


@pytest.mark.parametrize(
    "text",
    [
        "/home/alex/x",
        "~/x",
        "../alex/x",
        "./x/y",
        "C:\\alex\\x",
        "s3://alex/x.json",
        "pipe:cat /x",
        "alex/shards/train.json",
    ],
)
def test_paths_and_urls_are_places(text: str) -> None:
    assert is_place(text)
    assert "alex" not in str(without_places({"data": [text, {text: 1}]}))


@pytest.mark.parametrize(
    "text", ["ORG/NAME", "eval/lpips:min", "/", "area", "and/or/xor", "at 3/4 of it", "", "1/2\nand /x", "bytes"]
)
def test_names_and_words_stay(text: str) -> None:
    assert without_places({text: [text]}) == {text: [text]}


def test_a_folder_that_is_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alex" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_places("alex/run") == "run"


def test_files_with_a_general_name_keep_their_folder_s() -> None:
    assert without_places("/home/alex/codes/index.json") == "codes/index.json"
    assert without_places({"a": 1, "b": None, "c": 0.5, "d": True}) == {"a": 1, "b": None, "c": 0.5, "d": True}


def test_words_of_a_command_line() -> None:
    words = ["--data.index=/home/alex/birds.json", "--steps", "3", "/home/alex/run", "--x=1"]
    assert [word_without_places(word) for word in words] == ["--data.index=birds.json", "--steps", "3", "run", "--x=1"]


def test_a_folder_in_a_text(tmp_path: Path) -> None:
    assert without_folder(f"see {tmp_path}/log.txt", tmp_path) == f"see {tmp_path.name}/log.txt"
