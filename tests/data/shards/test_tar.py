"""Archives read by hand: names, extensions, damage."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from data.shards.layout import GENERAL
from data.shards.runs import Samples, scan
from data.shards.sample import read_sample
from data.shards.tar import Entry, entries
from tests.data.making import write_tar

split_name = GENERAL.split


def members(raw: bytes) -> list[Entry]:
    return [entry for entry in entries(raw) if entry.kind == "file"]


def found(raw: bytes) -> Samples:
    """The samples of an archive without damage."""
    walked = scan(io.BytesIO(raw), GENERAL)
    assert walked.damage == ""
    return walked.samples(GENERAL)


def archive(names: list[str], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for i, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = i + 1
            tar.addfile(member, io.BytesIO(b"x" * (i + 1)))
    return buffer.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_contents_agree_with_tarfile(form: int) -> None:
    long = "a" * 80 + "/" + "b" * 90
    names = [
        "1.jpg",
        "1.cls",
        f"{long}.png",
        f"{long}.json",
        "Ordner/ü.jpg" if form != tarfile.USTAR_FORMAT else "o/u.jpg",
    ]
    raw = archive(names, form)
    there = members(raw)
    assert [m.name for m in there] == names
    assert [raw[m.data : m.data + m.size] for m in there] == [b"x" * (i + 1) for i in range(len(names))]
    walked = found(raw)
    assert walked.keys == [split_name(name)[0] for name in (names[0], names[2], names[4])]
    for i, key in enumerate(walked.keys):
        piece = raw[walked.starts[i] : walked.starts[i + 1]]
        assert {split_name(m.name)[0] for m in members(piece)} == {key}


def test_directories_and_links_are_not_samples() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE), ("1.jpg", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert found(buffer.getvalue()).keys == ["1"]


@pytest.mark.parametrize("name", ["/etc/passwd.jpg", "../up.jpg", "a/../../up.jpg", "a\\..\\..\\b.jpg"])
def test_names_that_leave_the_archive_are_left_out(name: str) -> None:
    raw = archive(["1.jpg", name, "2.jpg"])
    walked = scan(io.BytesIO(raw), GENERAL)
    assert walked.keys == ["1", "2"] and walked.damage == ""
    assert walked.tally.lost() == 1 and "a name that leaves the archive" in walked.tally.lines()[1]
    assert read_sample(raw).key == "1" and list(read_sample(raw).files) == ["jpg"]
    assert len(read_sample(raw[1024:]).files) == 1 and read_sample(raw[1024:]).key == "2"


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 2000])
def test_a_cut_archive_is_damaged(cut: int) -> None:
    assert scan(io.BytesIO(archive(["1.jpg", "2.jpg"])[:cut]), GENERAL).damage


def test_an_archive_of_zeros_or_noise_is_no_crash() -> None:
    assert scan(io.BytesIO(b""), GENERAL).damage
    assert "no tar header" in scan(io.BytesIO(bytes(range(256)) * 20), GENERAL).damage
    assert scan(io.BytesIO(b"\0" * 10240), GENERAL).keys == []


def test_a_flipped_header_bit_is_noticed() -> None:
    raw = bytearray(archive(["1.jpg", "2.jpg"]))
    raw[1024 + 3] ^= 1
    walked = scan(io.BytesIO(bytes(raw)), GENERAL)
    assert walked.keys == ["1"] and "byte 1024" in walked.damage


def test_sizes_beyond_eight_gigabytes_are_read(tmp_path: Path) -> None:
    member = tarfile.TarInfo("1.jpg")
    member.size = 9 << 30
    path = tmp_path / "large.tar"
    with path.open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + (9 << 30) + 1024)
    with path.open("rb") as file:
        assert scan(file, GENERAL).samples(GENERAL).starts == [0, 512 + (9 << 30)]


def test_split_name() -> None:
    assert split_name("a.b/c.Seg.PNG") == ("a.b/c", "seg.png")


def test_a_member_of_many_is_found_by_its_offset(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(str(i), {"jpg": bytes([i]) * i, "cls": b"1"}) for i in range(20)])
    with path.open("rb") as file:
        walked = scan(file, GENERAL).samples(GENERAL)
    raw = path.read_bytes()
    piece = raw[walked.starts[7] : walked.starts[8]]
    assert [m.name for m in members(piece)] == ["7.jpg", "7.cls"]
