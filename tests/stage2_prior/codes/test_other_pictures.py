"""Code shards say which pictures they are of; an encoding goes on with no others, and heeds the quarantine list."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data.reading.stream import every_code
from data.shards import quarantine
from data.shards.identity import Identity
from data.shards.loading import load_index
from data.shards.writer import STATE
from launch.command.cli import UserError
from stage2_prior.codes import encoding
from stage2_prior.codes.shares import join
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.encode import encode
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.tiny import write_pictures


class StoppedError(Exception):
    """Ends an encoding after its first shard."""


def stopped(config: EncodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real, done = encoding.Encoding.shard, []

    def shard(self: encoding.Encoding, number: int, bar: object) -> None:
        if done:
            raise StoppedError
        done.append(number)
        real(self, number, bar)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(encoding.Encoding, "shard", shard)
        with pytest.raises(StoppedError):
            encode(config)


@pytest.fixture
def config(coded: Coded, tmp_path: Path) -> EncodeConfig:
    pictures = write_pictures(tmp_path / "pictures", shards=2, each=9)
    return EncodeConfig(tokenizer=coded.tokenizer, data=pictures, out=str(tmp_path / "codes"), batch_size=4)


def test_the_index_names_its_pictures_wherever_they_lay(config: EncodeConfig, tmp_path: Path) -> None:
    encode(config)
    meta = load_index(tmp_path / "codes" / "index.json").meta
    assert meta["data"] == Identity.of(load_index(config.data)).brief()
    assert str(tmp_path) not in (tmp_path / "codes" / "index.json").read_text()
    shutil.move(tmp_path / "pictures", tmp_path / "moved")
    encode(replace(config, data=str(tmp_path / "moved" / "index.json"), out=str(tmp_path / "again")))
    first, again = (Identity.of(load_index(tmp_path / name / "index.json")) for name in ("codes", "again"))
    assert (first.digest, again.difference(first.to_dict())) == (again.digest, "")


def test_an_unfinished_encoding_does_not_go_on_over_other_pictures(
    config: EncodeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(config, monkeypatch)
    shutil.move(tmp_path / "pictures", tmp_path / "kept")
    write_pictures(tmp_path / "pictures", shards=2, each=9, seed=8)
    with pytest.raises(UserError, match=r"holds unfinished codes of other pictures: another (size|content)") as error:
        encode(config)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    shutil.rmtree(tmp_path / "pictures")
    shutil.move(tmp_path / "kept", tmp_path / "pictures")
    assert encode(config) == 0
    assert encode(replace(config, out=str(tmp_path / "whole"))) == 0
    assert (tmp_path / "codes" / "index.json").read_text() == (tmp_path / "whole" / "index.json").read_text()


def test_classes_in_another_order_are_other_pictures(
    config: EncodeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(config, monkeypatch)
    index = tmp_path / "pictures" / "index.json"
    values = json.loads(index.read_text())
    values["classes"].reverse()
    index.write_text(json.dumps(values))
    with pytest.raises(UserError, match="its classes are star, square, circle, they were circle, square, star"):
        encode(config)


def test_an_encoding_begun_by_an_older_version_goes_on(
    config: EncodeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(config, monkeypatch)
    file = tmp_path / "codes" / STATE / "plan.json"
    plan = json.loads(file.read_text())
    shards = load_index(config.data).shards
    plan["pictures"] = [{"url": s.url, "nsamples": s.nsamples, "filesize": s.filesize} for s in shards]
    file.write_text(json.dumps(plan))
    assert encode(config) == 0


def test_parts_of_other_pictures_are_not_joined(config: EncodeConfig, tmp_path: Path) -> None:
    for part in range(2):
        if part:
            shutil.rmtree(tmp_path / "pictures")
            write_pictures(tmp_path / "pictures", shards=2, each=9, seed=8)
        encode(replace(config, part=part, parts=2))
    with pytest.raises(UserError, match="differs from part 0 in its pictures"):
        join(config.out, 2)


def test_pictures_in_quarantine_have_no_codes_and_are_told(
    config: EncodeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = {"pictures-000001.tar": {0: "it looks wrong", 3: "a duplicate"}}
    quarantine.save(quarantine.quarantine_path(Path(config.data)), listed)
    encode(config)
    keys = [key for batch in every_code(str(tmp_path / "codes" / "index.json"), batch_size=8) for key in batch.keys]
    assert len(keys) == 16 and not {"01_000", "01_003"} & set(keys)
    said = capsys.readouterr().out
    assert "taken: 16 pictures" in said
    assert "in the quarantine list (a duplicate)" in said and "pictures-000001.tar sample 3" in said


def test_damaged_pictures_are_counted_and_too_many_refused(
    config: EncodeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = tmp_path / "pictures" / "pictures-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"PNG", b"GNP", 2))
    with pytest.raises(UserError, match=r"allow_left_out=0\.1 is exceeded: 2 of 18 pictures"):
        encode(config)
    assert not (tmp_path / "codes" / "index.json").exists()
    assert encode(replace(config, allow_left_out=0.2)) == 0
    assert "2, damaged, see the warnings above (2 .tar): pictures-000000.tar" in capsys.readouterr().out


def test_an_encoding_does_not_go_on_with_another_quarantine_list(
    config: EncodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(config, monkeypatch)
    listed = {"pictures-000000.tar": {2: "it looks wrong"}}
    quarantine.save(quarantine.quarantine_path(Path(config.data)), listed)
    with pytest.raises(UserError, match=r"made with another quarantine .* '1 samples, "):
        encode(config)


def test_an_index_made_again_without_hashes_is_of_the_same_pictures(
    config: EncodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(config, monkeypatch)
    values = json.loads(Path(config.data).read_text())
    for shard in values["shardlist"]:
        del shard["sha256"]
    Path(config.data).write_text(json.dumps(values))
    assert encode(config) == 0
