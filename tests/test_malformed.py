"""Malformed input of every kind, through the commands: each refused with one line, and nothing in it is executed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import data.index
import data.inspect
import data.pack
import stage1_tokenizer.convert
import stage1_tokenizer.evaluate
import stage1_tokenizer.reconstruct
import stage1_tokenizer.release
import stage1_tokenizer.train
import stage2_prior.encode
import stage2_prior.sample
import stage2_prior.train
from launch.command.cli import run
from launch.command.exit_codes import BAD_INPUT
from tests.data.making import bomb, encoded, jpeg, picture_set
from tests.stage1_tokenizer import tiny

Command = tuple[Any, list[str]]
Case = Callable[[Path], Command]


class Evil:
    """A pickle of it makes the folder `place` when it is loaded."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def executed(place: Path) -> Path:
    """What is there once anything was executed."""
    return place / "executed"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything as it should be: a tokenizer, a picture, a set of shards, a run with a checkpoint."""
    place = tmp_path_factory.mktemp("sound")
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(place / "tokenizer")
    (place / "picture.jpg").write_bytes(jpeg(0))
    picture_set(place / "set", [3, 2])
    saved = place / "run" / "checkpoints" / "step-000000001"
    saved.mkdir(parents=True)
    transform = tiny.TRANSFORM.to_dict()
    model = json.loads((place / "tokenizer" / "config.json").read_text())["model"]
    settings = {"model": model, "data": {"transform": transform, "index": "gone.json"}}
    (place / "run" / "config.yaml").write_text(yaml.safe_dump(settings))
    with_weights(place, lambda: torch.save(tokenizer.state_dict(), saved / "ema.pt"))
    return place


def with_weights(place: Path, write: Callable[[], Any]) -> None:
    """Write the run's ema.pt, and a manifest that fits it: hashes guard against damage, not against malice."""
    write()
    saved = place / "run" / "checkpoints" / "step-000000001"
    contents = (saved / "ema.pt").read_bytes()
    entry = {"size": len(contents), "sha256": hashlib.sha256(contents).hexdigest()}
    (saved / "manifest.json").write_text(
        json.dumps({"format": 1, "step": 1, "world_size": 1, "files": {"ema.pt": entry}})
    )


# Each of these makes a case: it spoils something in a sound place, and gives the command that meets it.


def picture(contents: bytes, name: str = "p.png") -> Case:
    def spoil(place: Path) -> Command:
        (place / name).write_bytes(contents)
        return see(place, place / name)

    return spoil


def see(place: Path, file: Path) -> Command:
    words = [str(file), "--tokenizer", str(place / "tokenizer"), "--out", str(place / "out"), "--lpips", "false"]
    return stage1_tokenizer.reconstruct, words


def tokenizer(spoil: Callable[[Path], Any]) -> Case:
    def whole(place: Path) -> Command:
        spoil(place / "tokenizer")
        return see(place, place / "picture.jpg")

    return whole


def described(**changes: Any) -> Case:
    return tokenizer(lambda folder: edit(folder / "config.json", changes))


def edit(file: Path, changes: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def weights(contents: Callable[[Path], bytes]) -> Case:
    return tokenizer(lambda folder: (folder / "model.safetensors").write_bytes(contents(folder.parent)))


def settings(text: str, module: Any = stage1_tokenizer.train) -> Case:
    def spoil(place: Path) -> Command:
        (place / "c.yaml").write_text(text.replace("PLACE", str(executed(place))))
        return module, ["--config", str(place / "c.yaml"), "--run.folder", str(place / "new")]

    return spoil


def option(*words: str, module: Any = stage1_tokenizer.train) -> Case:
    return lambda place: (module, [*tiny.arguments(place / "new"), *words])


def index(text: str | dict[str, Any]) -> Case:
    def spoil(place: Path) -> Command:
        file = place / "set" / "set.json"
        if isinstance(text, dict):
            edit(file, json.loads(json.dumps(text).replace("PLACE", str(executed(place)))))
        else:
            file.write_text(text)
        return measure(place)

    return spoil


def measure(place: Path) -> Command:
    words = ["--tokenizer", str(place / "tokenizer"), "--data", str(place / "set" / "set.json"), "--lpips", "false"]
    return stage1_tokenizer.evaluate, [*words, "--out", str(place / "e.json")]


def in_set(spoil: Callable[[Path], Any]) -> Case:
    def whole(place: Path) -> Command:
        spoil(place / "set")
        return measure(place)

    return whole


def tar(contents: bytes) -> Case:
    def spoil(place: Path) -> Command:
        (place / "t.tar").write_bytes(contents)
        return data.index, [str(place / "t.tar"), str(place / "t.json")]

    return spoil


def members(*names: str, size: int | None = None, kind: bytes = tarfile.REGTYPE) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = (3 if kind == tarfile.REGTYPE else 0), kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(b"abc"))
    contents = bytearray(file.getvalue())
    if size is not None:
        contents[124:136] = f"{size:011o}\0".encode()
        contents[148:156] = b" " * 8
        contents[148:156] = f"{sum(contents[:512]):06o}\0 ".encode()
    return bytes(contents)


def packed(kind: str, name: str, contents: Callable[[Path], bytes]) -> Case:
    def spoil(place: Path) -> Command:
        (place / "source").mkdir()
        (place / "source" / name).write_bytes(contents(place))
        source = place / "source" / name if kind == "array" else place / "source"
        return data.pack, [str(source), str(place / "out"), "--kind", kind, "--processes", "1"]

    return spoil


def checkpoint(write: Callable[[Path], bytes]) -> Case:
    def spoil(place: Path) -> Command:
        file = place / "run" / "checkpoints" / "step-000000001" / "ema.pt"
        with_weights(place, lambda: file.write_bytes(write(place)))
        return stage1_tokenizer.release, [str(place / "run"), str(place / "out"), "--licence", "mit"]

    return spoil


def foreign(name: str, write: Callable[[Path], bytes]) -> Case:
    def spoil(place: Path) -> Command:
        (place / name).write_bytes(write(place))
        return stage1_tokenizer.convert, [str(place / name), str(place / "out"), "--from", "taming"]

    return spoil


def prior(name: str, write: Callable[[Path], bytes], **changes: Any) -> Case:
    def spoil(place: Path) -> Command:
        folder = place / "prior"
        folder.mkdir()
        vocabulary = {"codebook_size": 8, "classes": ["a"], "masked": False}
        codes = {"tokenizer": "0" * 64, "codebook_size": 8, "grid": [2, 2], "transform": tiny.TRANSFORM.to_dict()}
        about = {"format": 1, "kind": "autoregressive", "vocabulary": vocabulary, "codes": codes, **changes}
        (folder / "prior.json").write_text(json.dumps(about))
        llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 10, "hidden_size": 8}
        llama |= {"intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        (folder / "config.json").write_text(json.dumps(llama))
        (folder / name).write_bytes(write(place))
        words = ["--prior", str(folder), "--tokenizer", str(place / "tokenizer"), "--out", str(place / "out")]
        return stage2_prior.sample, words

    return spoil


def evil_pickle(place: Path) -> bytes:
    return pickle.dumps({"state_dict": Evil(executed(place))})


def evil_zip(place: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": Evil(executed(place))}, file)
    return file.getvalue()


def evil_array(place: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Evil(executed(place))], dtype=object), allow_pickle=True)
    return file.getvalue()


def huge_header(_: Path) -> bytes:
    return (2**62).to_bytes(8, "little") + b"{}"


def floats() -> bytes:
    return encoded(np.zeros((4, 4), np.float32), "TIFF")


def deep() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 1 << 20, np.int32)).save(file, "TIFF")
    return file.getvalue()


CASES: dict[str, Case] = {
    # pictures
    "picture of no bytes": picture(b""),
    "picture that is HTML": picture(b"<html>404 not found</html>"),
    "picture that is SVG with a script": picture(b"<svg><script>alert(1)</script></svg>", "p.svg"),
    "picture that is PostScript": picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(e) run\n", "p.eps"),
    "picture that is a pickle": lambda place: picture(evil_pickle(place))(place),
    "JPEG cut off in its header": picture(jpeg(0)[:40], "p.jpg"),
    "PNG cut off": picture(encoded(np.zeros((64, 64), np.uint8), "PNG")[:50]),
    "PNG that claims 2.5 gigapixels": picture(bomb(50_000)),
    "GIF without a frame": picture(b"GIF89a\x01\x00\x01\x00", "p.gif"),
    "WebP without contents": picture(b"RIFF\x10\0\0\0WEBPVP8 ", "p.webp"),
    "TIFF of floats": picture(floats(), "p.tif"),
    "TIFF of more than 16 bits": picture(deep(), "p.tif"),
    "picture that is not there": lambda place: see(place, place / "none.png"),
    "picture that is a folder": lambda place: see(place, place / "set"),
    # checkpoints
    "safetensors that are a pickle": weights(evil_pickle),
    "safetensors that are a torch file": weights(evil_zip),
    "safetensors with a header of 4 exabytes": weights(huge_header),
    "safetensors cut off": weights(lambda place: (place / "tokenizer" / "model.safetensors").read_bytes()[:900]),
    "safetensors of no bytes": weights(lambda _: b""),
    "checkpoint of a run with pickled code": checkpoint(evil_pickle),
    "checkpoint of a run with pickled code in a zip": checkpoint(evil_zip),
    "checkpoint of a run that is a text": checkpoint(lambda _: b"weights"),
    "foreign checkpoint with pickled code": foreign("vq.ckpt", evil_pickle),
    "foreign checkpoint with pickled code in a zip": foreign("vq.pt", evil_zip),
    "foreign checkpoint of an unknown suffix": foreign("vq.exe", evil_zip),
    "prior with a pickle in place of safetensors": prior("pytorch_model.bin", evil_zip),
    "prior whose safetensors are a pickle": prior("model.safetensors", evil_pickle),
    "CIFAR batch with pickled code": packed("cifar", "data_batch_1", evil_pickle),
    "array with pickled code": packed("array", "train.npy", evil_array),
    # configurations
    "config.json that is no JSON": tokenizer(lambda folder: (folder / "config.json").write_text("{")),
    "config.json that is a list": tokenizer(lambda folder: (folder / "config.json").write_text("[]")),
    "config.json of another model": described(model_type="llama"),
    "config.json of a newer format": described(format=99),
    "config.json with an unknown setting": described(model={"channels": 8, "backdoor": 1}),
    "config.json with a setting of another type": described(model={"channels": "many"}),
    "config.json whose model is a list": described(model=[1, 2]),
    "config.json with other code sizes": described(model={"channels": 8, "quantizer": {"codebook_size": 2}}),
    "preprocessor_config.json that is no JSON": tokenizer(
        lambda folder: (folder / "preprocessor_config.json").write_text("pad")
    ),
    "preprocessor_config.json with a size of -1": tokenizer(
        lambda folder: edit(folder / "preprocessor_config.json", {"transform": {"size": -1}})
    ),
    "recipe that makes objects": settings("run: !!python/object/apply:os.mkdir ['PLACE']\n"),
    "recipe that is no YAML": settings("run: [folder\n"),
    "recipe that is a list": settings("- 1\n- 2\n"),
    "recipe with an unknown key": option("--model.chanels", "8"),
    "recipe with a word for a number": option("--data.batch_size", "many"),
    "recipe with an impossible number": option("--steps", "-1"),
    "prior.json of an unknown kind": prior("notes.txt", lambda _: b"", kind="os.system"),
    "prior.json without a vocabulary": prior("notes.txt", lambda _: b"", vocabulary=None),
    "prior recipe that makes objects": settings("run: !!python/object/apply:os.mkdir ['PLACE']\n", stage2_prior.train),
    # indexes
    "index that is no JSON": index("{"),
    "index that is binary": index("\x00\x01\x02"),
    "index without shards": index("{}"),
    "index of another kind": index({"__kind__": "wids-shard-index-v9"}),
    "index with no samples": index({"shardlist": []}),
    "index with a text for a number": index({"shardlist": [{"url": "set-00.tar", "nsamples": "three"}]}),
    "index with shards that are no objects": index({"shardlist": ["set-00.tar"]}),
    "index with classes that are no list": index({"classes": 7}),
    "index with meta that is a text": index({"meta": "x"}),
    "index whose shard is not there": index({"shardlist": [{"url": "../none.tar", "nsamples": 3}]}),
    "index whose shard is a folder": index({"shardlist": [{"url": "..", "nsamples": 3}]}),
    "index with more samples than its shard": index({"shardlist": [{"url": "set-00.tar", "nsamples": 3000}]}),
    "index with fewer than no samples": index({"shardlist": [{"url": "set-00.tar", "nsamples": -3}]}),
    "index whose shard has grown": in_set(lambda folder: (folder / "set-00.tar").open("ab").write(b"\0" * 512)),
    # tars
    "tar of no bytes": tar(b""),
    "tar of noise": tar(np.random.default_rng(0).bytes(4096)),
    "tar that is a pickle": lambda place: tar(evil_pickle(place))(place),
    "tar cut off within a member": tar(members("a.jpg")[:513]),
    "tar without its end": tar(members("a.jpg")[:1024]),
    "tar with a member above it": tar(members("../../evil.jpg")),
    "tar with a member at the root": tar(members("/etc/evil.jpg")),
    "tar of links only": tar(members("a.jpg", kind=tarfile.SYMTYPE)),
    "tar whose member claims 8 GB": tar(members("a.jpg", size=8**11 - 1)),
    "tar of folders only": tar(members("a", kind=tarfile.DIRTYPE)),
    "tar with a member of a negative size": tar(members("a.jpg")[:124] + b"-0000000003\0" + members("a.jpg")[136:]),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_one_line_and_nothing_is_executed(
    name: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    place = tmp_path / "place"
    shutil.copytree(sound, place)
    monkeypatch.chdir(place)
    refused(CASES[name](place), place, monkeypatch, capfd)


def refused(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command that must refuse its input with one line, without writing `place`/out or executing anything."""
    module, words = command
    monkeypatch.setattr(sys, "argv", ["test", *words])
    with pytest.raises(SystemExit) as ended:
        run(module.main)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    told = [line for line in lines if not re.match(r"\w+: \d+/\d+ ", line)]  # less what tells of progress
    assert ended.value.code == BAD_INPUT
    assert len(told) == 1 and told[0].startswith("error: ") and len(told[0]) < 1000, told
    assert not executed(place).exists() and not (place / "out").exists()
    return told[0]


def test_the_pickles_here_would_be_executed_elsewhere(tmp_path: Path):
    pickle.loads(evil_pickle(tmp_path))
    assert executed(tmp_path).exists()
    executed(tmp_path).rmdir()
    torch.load(io.BytesIO(evil_zip(tmp_path)), weights_only=False)
    assert executed(tmp_path).exists()


def test_there_are_many():
    assert len(CASES) >= 50
