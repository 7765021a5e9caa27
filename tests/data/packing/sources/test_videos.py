"""Packing videos: folders, the layouts of well-known sets, frames, Parquet and tars; what is converted and left out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.index import main as index
from data.pack import PackConfig, main, plan
from data.packing.sources import open_source
from data.packing.sources.moving import DIRECTIONS
from data.pictures.config import FrameConfig
from data.reading.stream import every_sample
from data.shards.loading import load_index
from data.shards.sample import DamagedSampleError
from data.videos.config import VideoConfig, VideoConvertConfig
from data.videos.convert import convert
from data.videos.files import open_video
from data.videos.film import Film
from launch.command.cli import UserError
from tests.data.making import encoded as picture
from tests.data.making import jpeg, write_tar
from tests.data.packing.sources.test_sounds import packed, put
from tests.data.videos.making import clip, film, number_of, numbered

CLIP = clip(3, 4)


def frames(contents: bytes) -> list[int]:
    with open_video(contents, 10**6) as file:
        return [number_of(frame) for frame in file.read(range(file.frames), FrameConfig())]


def test_a_folder_of_videos_with_captions_and_splits(tmp_path: Path) -> None:
    root = tmp_path / "in"
    put(root / "train/run/a.webp", CLIP)
    put(root / "train/jump/b.MP4", film([numbered(i) for i in range(3)]))
    put(root / "train/jump/b.txt", "a jump")
    put(root / "train/run/noname", film([numbered(i) for i in range(3)], "mkv"))
    put(root / "train/run/poster.jpg", jpeg(1))
    put(root / "train/metadata.csv", "file_name,text\nrun/a.webp,a run\n")
    put(root / "val/run/c.gif", CLIP)
    found = packed(root, tmp_path / "out", "folder", media="videos")
    words = "jump/b.mp4 jump/b.cls jump/b.txt run/a.webp run/a.cls run/a.txt run/noname.mkv run/noname.cls"
    assert found["train"].keys() == {f"train/{word}" for word in words.split()}
    assert found["train"]["train/run/a.txt"] == b"a run" and found["val"].keys() == {"val/run/c.webp", "val/run/c.cls"}
    listed = load_index(tmp_path / "out/train.json")
    assert listed.kind == "videos" and listed.classes == ["jump", "run"]
    (batch,) = every_sample(listed, VideoConfig(size=32, frames=2), batch_size=4)
    assert batch.pixels_BCTHW.shape == (3, 3, 2, 32, 32) and sorted(batch.label_B.tolist()) == [0, 1, 1]
    with pytest.raises(UserError, match=r"holds no samples of kind=folder \(.*, a video: --media videos packs those"):
        put(tmp_path / "only/a.mp4", film([numbered(0)]))
        open_source("folder", str(tmp_path / "only"))


def test_ucf101_takes_the_first_split(tmp_path: Path) -> None:
    for name in ("Run/v_Run_g08_c01.avi", "Run/v_Run_g01_c01.avi", "Jump/v_Jump_g08_c02.avi", "Jump/extra.avi"):
        put(tmp_path / "UCF-101" / name, CLIP)
    lists = tmp_path / "ucfTrainTestlist"
    put(lists / "trainlist01.txt", "Run/v_Run_g08_c01.avi 2\nJump/v_Jump_g08_c02.avi 1\n")
    put(lists / "testlist01.txt", "Run/v_Run_g01_c01.avi\n")
    put(lists / "testlist02.txt", "Run/v_Run_g08_c01.avi\n")
    source = open_source("ucf101", str(tmp_path / "UCF-101"))
    assert source.classes == ["Jump", "Run"] and source.media == "videos"
    split_of = {source.paths[i]: split for split, numbers in source.splits.items() for i in numbers}
    assert split_of == {
        "Run/v_Run_g08_c01.avi": "train",
        "Jump/v_Jump_g08_c02.avi": "train",
        "Run/v_Run_g01_c01.avi": "test",
    }
    assert source.tally.lost("videos") == 1


def test_kinetics_tables_give_labels_and_splits(tmp_path: Path) -> None:
    for name in ("train/abc-_d_000010_000020.mp4", "val/xyz_000000_000010.mp4", "train/odd_000001_000011.mp4"):
        put(tmp_path / name, CLIP)
    rows = ["label,youtube_id,time_start,time_end,split", "drumming,abc-_d,10,20,train", "drumming,gone,5,15,train"]
    put(tmp_path / "annotations/train.csv", "\n".join(rows))
    put(tmp_path / "annotations/kinetics_600_val.csv", 'label,youtube_id,time_start,time_end\n"yoga",xyz,0,10\n')
    source = open_source("kinetics", str(tmp_path))
    assert source.classes == ["drumming", "yoga"]
    assert {split: [source.paths[i] for i in numbers] for split, numbers in source.splits.items()} == {
        "train": ["train/abc-_d_000010_000020.mp4"],
        "val": ["val/xyz_000000_000010.mp4"],
    }
    assert source.tally.lost("videos") == 1 and any("gone" in line for line in source.tally.lines())
    with pytest.raises(UserError, match="has no table with youtube_id"):
        open_source("kinetics", str(put(tmp_path / "no/a.mp4", CLIP).parent))


def test_folders_of_frames_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for i in range(12):
        put(tmp_path / f"in/train/a/{i}.png", picture(numbered(i), "PNG"))
        put(tmp_path / f"in/test/sub/b/frame{i:03d}.png", picture(numbered(i, 8, 16), "PNG"))
    put(tmp_path / "in/train/odd/1.png", picture(numbered(1), "PNG"))
    put(tmp_path / "in/train/odd/2.png", picture(numbered(1, 8, 8), "PNG"))
    video = VideoConvertConfig(frame_rate=12.0)
    found = packed(tmp_path / "in", tmp_path / "out", "frames", video=video, allow_left_out=1.0)
    assert list(found["train"]) == ["train/a.webp"] and list(found["test"]) == ["test/sub/b.webp"]
    assert frames(found["train"]["train/a.webp"]) == list(range(12))
    with open_video(found["train"]["train/a.webp"], 10**6) as file:
        assert np.allclose(file.times[-1], 1.0, atol=1e-3)
    assert "differ in size" in (tmp_path / "out/train.skipped.json").read_text()


def field(number: int, contents: bytes) -> bytes:
    """A protocol buffer's field that has a length."""
    size, length = b"", len(contents)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + contents


def test_bair_records_without_tensorflow(tmp_path: Path) -> None:
    def record(first: int, side: int = 16) -> bytes:
        entries = b"".join(
            field(1, field(1, f"{i}/{view}/encoded".encode()) + field(2, field(1, field(1, pixels.tobytes()))))
            for i in range(12)
            for view, pixels in (
                ("image_main", numbered(0, side, side)),
                ("image_aux1", numbered(first + i, side, side)),
            )
        )
        floats = field(1, field(1, b"0/action") + field(2, field(2, field(1, bytes(16)))))
        return field(1, floats + entries)

    def file(*records: bytes) -> bytes:
        return b"".join(len(one).to_bytes(8, "little") + bytes(4) + one + bytes(4) for one in records)

    put(tmp_path / "softmotion30_44k/train/traj_0_to_1.tfrecords", file(record(5), record(50)))
    put(tmp_path / "softmotion30_44k/test/traj_0_to_0.tfrecords", file(record(90)))
    found = packed(tmp_path, tmp_path / "out", "bair")
    assert sorted(frames(contents)[0] for contents in found["train"].values()) == [5, 50]
    assert [frames(contents) for contents in found["test"].values()] == [list(range(90, 102))]
    put(tmp_path / "softmotion30_44k/test/traj_0_to_0.tfrecords", file(record(90))[:-100])
    with pytest.raises(UserError, match="is truncated, or no file of records"):
        open_source("bair", str(tmp_path))
    put(tmp_path / "softmotion30_44k/test/traj_0_to_0.tfrecords", file(b"\x0fnonsense"))
    source = open_source("bair", str(tmp_path))
    with pytest.raises(DamagedSampleError, match="no example of TensorFlow"):
        source.read(2)


def test_moving_digits_say_what_they_show(tmp_path: Path) -> None:
    found = packed(Path("data/samples/mnist"), tmp_path, "moving_digits", clips=18)
    assert sum(name.endswith(".webp") for name in found["train"]) == 18 and len(found["held_out"]) == 3 * 2
    index = load_index(tmp_path / "train.json")
    assert index.kind == "videos" and index.classes == [str(digit) for digit in range(10)]
    assert set(index.meta["attributes"]) == {"digit", "direction"} and index.meta["frame_rate"] == 8.0
    seen = set()
    for batch in every_sample(index, VideoConfig(size=24, frames=9, channels=1), batch_size=18):
        for clip_THW, text, label in zip(
            batch.pixels_BCTHW[:, 0].numpy(), batch.captions, batch.label_B.tolist(), strict=True
        ):
            _, digit, _, direction = text.split()
            down, right = DIRECTIONS[direction]
            assert digit == str(label) and clip_THW.max() > 150
            for before, after in pairwise(clip_THW):
                assert np.array_equal(np.roll(before, (down, right), (0, 1)), after), "one pixel a frame, all in sight"
            seen.add(direction)
    assert len(seen) > 2
    source = open_source("moving_digits", "data/samples/mnist", {"clips": 18000})
    once, again = source.read(0), source.read(9000)
    assert once.key.split("-")[0] == again.key.split("-")[0] and once.encoded != again.encoded


def test_encoding_again(tmp_path: Path) -> None:
    contents = film([numbered(i, 48, 96) for i in range(20)], "mkv", bf="2", g="250")
    extension, small = convert(contents, None, VideoConvertConfig(side=24, gop=5))
    with open_video(small, 10**6) as file:
        (frame,) = file.read([7], FrameConfig())
        assert extension == "mp4" and file.frames == 20 and frame.shape == (24, 48, 3) and number_of(frame) == 7
        assert isinstance(file, Film) and file._table.begins(19) > 14
    assert frames(convert(contents, None, VideoConvertConfig(frame_rate=5.0))[1]) == [0, 5, 10, 15]
    odd = film([numbered(i, 31, 63) for i in range(3)], "mkv", "ffv1")
    assert frames(convert(odd, None, VideoConvertConfig(format="mp4"))[1]) == [0, 1, 2]
    extension, webp = convert(odd, None, VideoConvertConfig(format="webp"))
    with open_video(webp, 10**6) as file, open_video(odd, 10**6) as before:
        for a, b in zip(file.read(range(3), FrameConfig()), before.read(range(3), FrameConfig()), strict=True):
            assert extension == "webp" and np.array_equal(a, b), "without loss"
        assert np.allclose(file.times, before.times, atol=1e-3)
    assert convert(contents, None, VideoConvertConfig()) == ("mkv", contents)
    assert len({convert(contents, None, VideoConvertConfig(side=24)) for _ in range(8)}) == 1, (
        "the same bytes each time"
    )
    with pytest.raises(DamagedSampleError, match=r"20 frames are less than video\.least_frames=30"):
        convert(contents, None, VideoConvertConfig(least_frames=30))
    cut = contents[: len(contents) * 2 // 3]
    assert convert(cut, None, VideoConvertConfig(check="none"))[1] == cut
    with pytest.raises(DamagedSampleError, match=r"it ends after"):
        convert(cut, None, VideoConvertConfig())


def test_parquet_tars_and_settings(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = {"video": [{"bytes": clip(i, 3), "path": f"{i}.webp"} for i in range(4)], "text": ["a", "b", "c", "d"]}
    put(tmp_path / "in/train.parquet", b"")
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "in/train.parquet")
    found = packed(tmp_path / "in", tmp_path / "out", "parquet", media="videos", caption_column="text")
    assert sum(name.endswith(".webp") for name in found["train"]) == 4
    assert packed(tmp_path / "in", tmp_path / "out2", "parquet", video_column="video")["train"]
    with pytest.raises(UserError, match="image_column is not for media=videos"):
        open_source("parquet", str(tmp_path / "in"), {"media": "videos", "image_column": "video"})
    members = {"mp4": film([numbered(1)] * 3), "jpg": jpeg(0), "txt": b"words"}
    write_tar(tmp_path / "t/train-0.tar", [("a", members), ("b", members)])
    assert index([str(tmp_path / "t/train-0.tar"), str(tmp_path / "t.json"), "--media", "videos"]) == 0
    assert load_index(tmp_path / "t.json").kind == "videos"
    found = packed(tmp_path / "t/*.tar", tmp_path / "out3", "tars", media="videos")
    assert found["train"].keys() == {f"{key}.{name}" for key in "ab" for name in members}
    write_tar(tmp_path / "only/train-0.tar", [("a", {"mp4": members["mp4"]})])
    with pytest.raises(UserError, match=r"for videos: `python -m data\.index` with --media videos"):
        index([str(tmp_path / "only/train-0.tar"), str(tmp_path / "o.json")])
    config: Any = {"source": "s", "out": "o", "kind": "folder"}
    with pytest.raises(UserError, match=r"convert has settings, but source=.* holds videos: set those of video"):
        main([str(tmp_path / "t/*.tar"), str(tmp_path / "out4"), "--kind", "tars", "--media", "videos",
              "--convert.size", "8"])  # fmt: skip
    source = open_source("tars", str(tmp_path / "t/*.tar"), {"media": "videos"})
    assert not {"video", "clips", "video_column"} & plan(source, PackConfig(**config)).keys(), (
        "as before they were there"
    )
    capsys.readouterr()
