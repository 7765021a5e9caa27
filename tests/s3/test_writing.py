"""Packing, indexing and encoding to and from a bucket, by the rules of folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data import index as indexing
from data import inspect as inspecting
from data.pack import PackConfig, pack
from data.pictures.config import TransformConfig
from data.reading.stream import every_code, every_sample
from data.remote import stores
from data.remote.files import Patience, RemoteFile, whole
from data.shards.check import check_readable
from data.shards.loading import load_index
from launch.command.cli import UserError
from stage2_prior.codes.shares import join
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.encode import encode
from tests.s3.proxy import Proxy
from tests.stage2_prior.tiny import write_pictures, write_tokenizer

SMALL = TransformConfig(size=8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ with two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for number in range(count):
            path = folder / split / f"class-{number % 2}" / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


def packed(source: Path | str, out: Path | str, **values: Any) -> None:
    values = {"kind": "folder", "samples_per_shard": 5, "processes": 1, **values}
    pack(PackConfig(source=str(source), out=str(out), **values), show_progress=False)


def objects(url: str) -> dict[str, bytes]:
    """Contents by name."""
    return {one.removeprefix(f"{url}/"): whole(RemoteFile(one, Patience())) for one in sorted(stores.listed(f"{url}/"))}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bucket_gets_what_a_folder_gets(bucket: str, pictures: Path, tmp_path: Path, processes: int) -> None:
    packed(pictures, tmp_path / "set")
    packed(pictures, f"{bucket}/a/set", processes=processes)
    assert objects(f"{bucket}/a/set") == contents(tmp_path / "set")
    keys = [key for b in every_sample(f"{bucket}/a/set/train.json", SMALL, batch_size=5) for key in b.keys]
    assert len(set(keys)) == 12


def test_a_pack_that_breaks_off_leaves_no_index_and_is_resumed(
    bucket: str, pictures: Path, tmp_path: Path, proxy: Proxy
) -> None:
    out = f"{bucket}/set"
    for ending in ("train-000001.tar", "train-000002.tar.json", "train.offsets.npz", "test.json", "/plan.json"):
        methods = ("PUT", "DELETE") if ending == "/plan.json" else ("PUT",)
        proxy.fault = lambda method, path, number, ending=ending, methods=methods: (
            "expired" if method in methods and path.endswith(ending) else ""
        )
        with pytest.raises(UserError, match="credentials have expired"):
            packed(pictures, out)
        if ending.endswith((".tar", ".tar.json", ".npz")):
            assert not stores.exists(f"{out}/train.json")
    proxy.fault = lambda method, path, number: ""
    proxy.requests.clear()
    packed(pictures, out)
    assert not [path for method, path in proxy.requests if method == "PUT" and path.endswith(".tar")]
    packed(pictures, tmp_path / "set")
    assert objects(out) == contents(tmp_path / "set")


def test_nothing_is_overwritten_without_the_word(bucket: str, pictures: Path) -> None:
    out = f"{bucket}/set"
    stores.put(f"{out}/train-000099.tar", b"a stranger's")
    packed(pictures, out)
    before = objects(out)
    with pytest.raises(UserError, match="holds a finished set"):
        packed(pictures, out)
    assert objects(out) == before
    packed(pictures, out, samples_per_shard=100, overwrite=True)
    assert [name for name in objects(out) if name.endswith(".tar")] == [
        "test-000000.tar",
        "train-000000.tar",
        "train-000099.tar",
    ]


def test_another_plan_is_refused(bucket: str, pictures: Path, proxy: Proxy) -> None:
    proxy.fault = lambda method, path, number: "expired" if method == "PUT" and path.endswith("000001.tar") else ""
    with pytest.raises(UserError):
        packed(pictures, f"{bucket}/set")
    proxy.fault = lambda method, path, number: ""
    with pytest.raises(UserError, match=rf"out={bucket}/set holds an unfinished set made with another seed"):
        packed(pictures, f"{bucket}/set", seed=5)


def test_a_missing_bucket_and_a_read_only_url_are_told_before_the_work(pictures: Path, proxy: Proxy) -> None:
    with pytest.raises(UserError, match=r"s3://no-such-bucket/set .*the bucket is missing"):
        packed(pictures, "s3://no-such-bucket/set")
    with pytest.raises(UserError, match="can't be written to"):
        packed(pictures, "https://example.invalid/set?secret=1")


def test_a_set_in_a_bucket_is_indexed_by_a_pattern(bucket: str, pictures: Path, tmp_path: Path, proxy: Proxy) -> None:
    packed(pictures, f"{bucket}/set")
    expected = load_index(f"{bucket}/set/train.json")
    for number, pattern in enumerate(("train-*.tar", "train-{000000..000002}.tar", "../set/train-00000[0-2].tar")):
        out = f"{bucket}/set/again-{number}.json" if number < 2 else str(tmp_path / "again.json")
        pattern = f"{bucket}/set/{pattern.removeprefix('../set/')}"
        assert indexing.main([pattern, out]) == 0
        found = load_index(out)
        assert found.sizes == expected.sizes
        assert [found.location(i) for i in range(3)] == [expected.location(i) for i in range(3)]
        assert [shard.filesize for shard in found.shards] == [shard.filesize for shard in expected.shards]
        assert found.offsets is not None and found.offsets.blocks.tolist() == expected.offsets.blocks.tolist()
    assert json.loads(objects(f"{bucket}/set")["again-0.json"])["shardlist"][0]["url"] == "train-000000.tar"
    with pytest.raises(UserError, match="exists already"):
        indexing.main([f"{bucket}/set/*.tar", f"{bucket}/set/again-0.json"])
    with pytest.raises(UserError, match="matches no tar"):
        indexing.main([f"{bucket}/set/none-*.tar", f"{bucket}/set/none.json"])


def test_a_key_with_special_characters_is_taken_literally(bucket: str, pictures: Path, tmp_path: Path) -> None:
    packed(pictures, tmp_path / "set")
    key = f"{bucket}/a b+c=[1]&é%20/x[0-9].tar"
    stores.put(key, tmp_path / "set/test-000000.tar")
    assert indexing.main([key, str(tmp_path / "one.json")]) == 0
    assert len([key for b in every_sample(str(tmp_path / "one.json"), SMALL, batch_size=5) for key in b.keys]) == 4


def test_an_index_in_a_bucket_names_no_local_tars(bucket: str, pictures: Path, tmp_path: Path) -> None:
    packed(pictures, tmp_path / "set")
    with pytest.raises(UserError, match="only on this machine"):
        indexing.main([str(tmp_path / "set/*.tar"), f"{bucket}/local.json"])
    assert not stores.exists(f"{bucket}/local.json")


@pytest.mark.parametrize("source", ["train.json", "", "train-*.tar"])
def test_tars_in_a_bucket_are_resharded(bucket: str, pictures: Path, tmp_path: Path, source: str) -> None:
    packed(pictures, f"{bucket}/set", samples_per_shard=5)
    packed(f"{bucket}/set/{source}", f"{bucket}/again", kind="tars", samples_per_shard=4, processes=None)
    index = load_index(f"{bucket}/again/train.json")
    assert sorted(index.sizes) == [4, 4, 4]


def test_inspect_and_check_read_a_bucket(bucket: str, pictures: Path, tmp_path: Path, capsys: Any) -> None:
    packed(pictures, f"{bucket}/set")
    sheet = tmp_path / "sheet.png"
    assert inspecting.main([f"{bucket}/set/train.json", "--contact_sheet", str(sheet), "--count", "4"]) == 0
    assert "12 samples" in capsys.readouterr().out and sheet.exists()
    check_readable(f"{bucket}/set/train.json")
    stores.delete(f"{bucket}/set/train-000000.tar")
    with pytest.raises(UserError, match=r"train-000000\.tar"):
        check_readable(f"{bucket}/set/train.json")


def test_codes_are_written_to_a_bucket_and_read_from_it(bucket: str, tmp_path: Path) -> None:
    pictures, tokenizer = (
        write_pictures(tmp_path / "pictures", shards=2, each=9),
        write_tokenizer(tmp_path / "tokenizer"),
    )
    for out in (str(tmp_path / "codes"), f"{bucket}/codes"):
        assert encode(EncodeConfig(tokenizer=tokenizer, data=pictures, out=out, batch_size=7, verify=2)) == 0
    ours, theirs = objects(f"{bucket}/codes"), contents(tmp_path / "codes")
    assert ours == theirs and "verify.png" in ours
    keys = [key for batch in every_code(f"{bucket}/codes/index.json", batch_size=5) for key in batch.keys]
    assert len(set(keys)) == 18
    with pytest.raises(UserError, match="holds a finished set"):
        encode(EncodeConfig(tokenizer=tokenizer, data=pictures, out=f"{bucket}/codes", batch_size=7))


def test_parts_of_an_encoding_are_joined_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    pictures, tokenizer = (
        write_pictures(tmp_path / "pictures", shards=2, each=9),
        write_tokenizer(tmp_path / "tokenizer"),
    )
    config = EncodeConfig(tokenizer=tokenizer, data=pictures, out=f"{bucket}/codes", batch_size=7, parts=2, part=0)
    assert encode(config) == 0
    with pytest.raises(UserError, match="finish part 1 of 2 first"):
        join(config.out, 2)
    assert encode(replace(config, part=1)) == 0
    assert len(join(config.out, 2)) == len(load_index(f"{bucket}/codes/index.json")) == 18
