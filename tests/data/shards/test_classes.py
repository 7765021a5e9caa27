"""Classes are held to each other by name."""

from pathlib import Path

import pytest

from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from data.shards.classes import held_to, label_map
from data.shards.loading import load_index
from launch.command.cli import UserError
from tests.data.shards.test_identity import write_set

TRAINING = ("cat", "dog", "fox")


@pytest.mark.parametrize(
    ("own", "labels"),
    [
        (("cat", "dog", "fox"), ()),
        (("dog",), (1,)),
        (("fox", "cat"), (2, 0)),
        (("fox", "dog", "cat"), (2, 1, 0)),
    ],
)
def test_a_class_keeps_its_name_not_its_number(own: tuple[str, ...], labels: tuple[int, ...]) -> None:
    assert label_map(own, TRAINING, "held_out") == labels


@pytest.mark.parametrize(
    ("own", "training", "words"),
    [
        (("ant", "cat", "dog"), TRAINING, "held_out has classes that the training has not: ant;"),
        (("Cat",), TRAINING, "the training has not: Cat"),
        (("0", "1"), TRAINING, "the training has not: 0, 1"),
        ((), TRAINING, "held_out has no classes"),
        (("cat",), (), "the training has none"),
        (("crane",), ("crane", "crane", "dog"), "several times"),
    ],
)
def test_what_can_not_be_matched_is_refused_by_name(
    own: tuple[str, ...], training: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words) as error:
        label_map(own, training, "held_out")
    assert "\n" not in str(error.value)


def test_samples_get_the_training_s_labels(tmp_path: Path) -> None:
    said: list[str] = []
    index = held_to(
        load_index(write_set(tmp_path, classes=("fox", "dog"), shards=1, each=4)), TRAINING, "x", say=said.append
    )
    (batch,) = every_sample(index, TransformConfig(size=8, channels=1), batch_size=8)
    assert batch.label_B.tolist() == [2, 1, 2, 1]
    assert len(said) == 1 and "matched by name" in said[0]
    assert held_to(index, TRAINING, "x") is index
