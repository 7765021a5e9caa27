"""The identity of a set of shards: equal wherever it lies, different where anything in it is."""

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import index as index_command
from data.inspecting.verify import verify
from data.shards.identity import Identity, set_name
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from data.shards.writer import ShardWriter
from launch.files.places import place_name
from tests.data.serving import served


def write_set(
    folder: Path,
    *,
    shards: int = 2,
    each: int = 3,
    classes: Sequence[str] = ("cat", "dog"),
    seed: int = 0,
    side: int = 8,
) -> Path:
    """A set of noise pictures as raw BMP files, all of one size; its index."""
    random = np.random.default_rng(seed)

    def samples(shard: int):
        for number in range(each):
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 255, (side, side), dtype=np.uint8)).save(file, "bmp")
            label = str(number % len(classes)).encode()
            yield f"{shard}-{number}", {"bmp": file.getvalue()} | ({"cls": label} if classes else {})

    writer = ShardWriter(folder)
    writer.begin({"seed": seed}, ["index.json"])
    records = [writer.write(f"pictures-{shard:06d}.tar", samples(shard)) for shard in range(shards)]
    writer.finish({"index.json": writer.index(records, name="noise", classes=list(classes))})
    return folder / "index.json"


def identity(path: Path) -> Identity:
    return Identity.of(load_index(path))


def test_a_copy_and_a_rebuilt_index_have_the_same_identity(tmp_path: Path) -> None:
    first = identity(write_set(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    moved = identity(tmp_path / "elsewhere" / "b" / "index.json")
    again = identity(write_set(tmp_path / "c"))
    for other in (moved, again):
        assert (other.digest, other.difference(first.to_dict())) == (first.digest, "")
    assert str(tmp_path) not in json.dumps(first.to_dict())


def test_urls_on_another_host_do_not_change_it(tmp_path: Path) -> None:
    index = load_index(write_set(tmp_path / "a"))
    remote = replace(
        index, shards=tuple(replace(one, url=f"s3://bucket/key/{one.url}?secret=1") for one in index.shards)
    )
    assert Identity.of(remote).digest == Identity.of(index).digest
    assert "secret" not in json.dumps(Identity.of(remote).to_dict())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "another content: pictures-000000.tar"),
        ({"shards": 3}, "new shards: pictures-000002.tar"),
        ({"shards": 1}, "shards that are gone: pictures-000001.tar"),
        ({"each": 4}, "another number of samples"),
        ({"side": 40}, "another size"),
        ({"classes": ("dog", "cat")}, "its classes are dog, cat, they were cat, dog"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, change: dict, words: str) -> None:
    before, after = identity(write_set(tmp_path / "a")), identity(write_set(tmp_path / "b", **change))
    assert words in after.difference(before.to_dict())
    assert after.digest != before.digest


def test_the_order_of_shards_counts(tmp_path: Path) -> None:
    index = load_index(write_set(tmp_path / "a"))
    turned = replace(index, shards=index.shards[::-1])
    assert "order" in Identity.of(turned).difference(Identity.of(index).to_dict())


def test_an_index_without_hashes_agrees_with_one_that_has_them(tmp_path: Path) -> None:
    index = load_index(write_set(tmp_path / "a"))
    old = replace(index, shards=tuple(replace(one, sha256=None, filesize=None) for one in index.shards), path="")
    for one, other in ((index, old), (old, index)):
        assert Identity.of(one).difference(Identity.of(other).to_dict()) == ""


def test_sizes_of_local_shards_are_looked_up(tmp_path: Path) -> None:
    path = write_set(tmp_path / "a")
    values = json.loads(path.read_text())
    for one in values["shardlist"]:
        del one["filesize"], one["sha256"]
    path.write_text(json.dumps(values))
    assert all(shard.size for shard in identity(path).shards)


def test_indexed_tars_of_one_size_are_told_apart_by_their_contents(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 1)):
        write_set(tmp_path / name, seed=seed)
        out = tmp_path / name / "again.json"
        index_command.main([str(tmp_path / name / "pictures-*.tar"), str(out)])
        found.append(identity(out))
    assert [one.size for one in found[0].shards] == [one.size for one in found[1].shards]
    assert "another content" in found[1].difference(found[0].to_dict())


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/home/alex/birds/index.json", "birds"),
        ("shards/held_out.json", "held_out"),
        ("s3://bucket/birds/train.json?key=secret", "train"),
        ("/data/set/_info.json#validation", "set validation"),
        ("C:\\sets\\birds.json", "birds"),
        ("/", "unnamed"),
    ],
)
def test_places_are_known_by_their_last_part(location: str, name: str) -> None:
    assert place_name(location) == name


@pytest.mark.parametrize("own", ["/home/alex/birds", "~/birds", "s3://alex/birds", "C:\\alex\\birds", "../alex/birds"])
def test_a_name_that_is_a_path_loses_its_folders(own: str) -> None:
    assert set_name(ShardIndex((), name=own)) == "birds"


def test_other_names_stay() -> None:
    assert set_name(ShardIndex((), name="ORG/birds train")) == "ORG/birds train"


def test_a_nameless_index_gets_its_files_name(tmp_path: Path) -> None:
    path = write_set(tmp_path / "birds")
    path.write_text(path.read_text().replace('"name": "noise"', '"name": ""'))
    assert load_index(path).name == "birds"


def test_a_set_read_from_a_server_is_the_same_set(tmp_path: Path) -> None:
    local = identity(write_set(tmp_path))
    with served(tmp_path) as server:
        remote = Identity.of(load_index(f"{server.url}/index.json"))
    assert (remote.digest, remote.difference(local.to_dict())) == (local.digest, "")
    assert server.url not in json.dumps(remote.to_dict())


def test_verification_finds_a_shard_of_the_same_size_with_other_contents(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_set(tmp_path / name, seed=seed)
    assert verify(load_index(tmp_path / "a" / "index.json")).sound
    (tmp_path / "b" / "pictures-000001.tar").replace(tmp_path / "a" / "pictures-000001.tar")
    findings = verify(load_index(tmp_path / "a" / "index.json"))
    assert list(findings.damaged_tars) == ["pictures-000001.tar"] and not findings.sound
    assert "another than when its index was made" in findings.damaged_tars["pictures-000001.tar"]
