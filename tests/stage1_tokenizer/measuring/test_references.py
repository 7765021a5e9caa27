"""Sets of pictures from all containers, and their statistics from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from launch.command.cli import UserError
from stage1_tokenizer.measuring.distances import figures
from stage1_tokenizer.measuring.features import FeatureNetwork
from stage1_tokenizer.measuring.picture_sets import PictureHash, every_picture, size_of
from stage1_tokenizer.measuring.references import MeasuredSet, measure_set, reference_of, save_reference
from tests.stage1_tokenizer import tiny

INDEX = str(tiny.ROOT / tiny.HELD_OUT)
OPTIONS: dict[str, Any] = {"batch_size": 8, "size": (16, 16)}
TRANSFORM = TransformConfig(size=16, channels=1, fit="stretch", background=0)


class Means(FeatureNetwork):
    """Means over the parts of a picture, with as many numbers as said."""

    def __init__(self, width: int = 16, sha256: str = "a" * 64):
        super().__init__()
        self.widths, self.about = {"pool": width}, {"network": "means", "sha256": sha256}
        self.names = {name: name for name in ("frechet", "kid", "precision", "recall")}

    def forward(self, pixels_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        cells_BCHW = torch.nn.functional.adaptive_avg_pool2d(pixels_BCHW.float().mean(1, keepdim=True), 4)
        return {"pool": cells_BCHW.flatten(1).repeat(1, self.widths["pool"] // 16)}


class Alone:
    rank, world_size, device = 0, 1, torch.device("cpu")

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def gather(self, value: object) -> list[object]:
        return [value]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same 23 pictures as a part of an index, a folder of PNGs, and an .npz."""
    place = tmp_path_factory.mktemp("sets")
    (batch,) = every_sample(INDEX, TRANSFORM, batch_size=23, limit=23)
    pixels_BHWC = batch.pixels_BCHW.permute(0, 2, 3, 1).numpy()
    (place / "folder" / "some").mkdir(parents=True)
    for number, picture_HWC in enumerate(pixels_BHWC):
        Image.fromarray(picture_HWC[..., 0]).save(place / "folder" / "some" / f"{number:02d}.png")
    (place / "folder" / "notes.txt").write_text("no picture")
    np.savez(place / "pictures.npz", np.repeat(pixels_BHWC, 3, axis=3))
    np.savez_compressed(place / "small.npz", pixels_BHWC)
    return {"index": INDEX, **{name: str(place / name) for name in ("folder", "pictures.npz", "small.npz")}}


def test_the_same_pictures_are_the_same_set_in_any_container(sets: dict[str, str]):
    found = [measure_set(source, TRANSFORM, Means(), Alone(), batch_size=5, limit=23) for source in sets.values()]
    for one in found[1:]:
        assert one.about["hash"] == found[0].about["hash"]
        assert torch.allclose(
            one.statistics.gaussians["pool"].covariance_DD, found[0].statistics.gaussians["pool"].covariance_DD
        )
    fewer = measure_set(sets["folder"], TRANSFORM, Means(), Alone(), batch_size=5, limit=22)
    assert fewer.about["hash"] != found[0].about["hash"] and fewer.about["pictures"] == 22
    assert [size_of(source) for source in sets.values()] == [None, *[(16, 16)] * 3]


def test_uneven_ranks_read_every_picture_once(sets: dict[str, str]):
    for name in ("folder", "pictures.npz"):
        whole, parts = PictureHash(torch.device("cpu")), PictureHash(torch.device("cpu"))
        keys = []
        for batch in every_picture(sets[name], TRANSFORM, batch_size=23):
            whole.add(batch.pixels_BCHW)
        for rank in range(4):
            for batch in every_picture(sets[name], TRANSFORM, batch_size=4, rank=rank, world_size=4):
                parts.add(batch.pixels_BCHW.flip(0))
                keys += batch.keys
        assert len(keys) == len(set(keys)) == 23
        assert parts.result() == whole.result()


def test_saved_statistics_replace_their_pictures(sets: dict[str, str], tmp_path: Path):
    network = Means()
    reference = measure_set(sets["folder"], TRANSFORM, network, Alone(), batch_size=8)
    save_reference(tmp_path / "new" / "reference.npz", reference, network)
    again = reference_of(str(tmp_path / "new" / "reference.npz"), TRANSFORM, network, Alone(), **OPTIONS)
    assert again.about == reference.about
    measured = measure_set(INDEX, TRANSFORM, network, Alone(), batch_size=8, limit=31).statistics
    assert figures(network, measured, again.statistics) == figures(network, measured, reference.statistics)
    with pytest.raises(UserError, match=r"was measured with means \(aaaaaaaaaaaa…\), not with means \(bbbb"):
        reference_of(str(tmp_path / "new" / "reference.npz"), TRANSFORM, Means(sha256="b" * 64), Alone(), **OPTIONS)


def test_adms_files_are_read(sets: dict[str, str], tmp_path: Path):
    wide = Means(32)
    pictures = measure_set(sets["pictures.npz"], TRANSFORM, wide, Alone(), batch_size=8).statistics
    one = pictures.gaussians["pool"]
    both = {"mu": one.mean_D.numpy(), "sigma": one.covariance_DD.numpy().astype(np.float32)}
    np.savez(tmp_path / "statistics.npz", **both)
    np.savez(tmp_path / "virtual.npz", np.load(sets["pictures.npz"])["arr_0"], **both)

    def read(name: str, network: FeatureNetwork) -> MeasuredSet:
        return reference_of(str(tmp_path / name), TRANSFORM, network, Alone(), **OPTIONS)

    bare, virtual = read("statistics.npz", wide), read("virtual.npz", wide)
    assert bare.about["hash"] == virtual.about["hash"] and bare.statistics.count is None
    assert set(figures(wide, pictures, bare.statistics)) == {"frechet"}
    assert figures(wide, pictures, virtual.statistics)["precision"] == 1
    with pytest.raises(UserError, match="holds statistics of 32 features, not of means"):
        read("statistics.npz", Means())
    assert read("virtual.npz", Means()).about["pictures"] == 23  # of another network, but the pictures are there


def test_other_files_are_refused(tmp_path: Path):
    def read(name: str) -> None:
        reference_of(str(tmp_path / name), TRANSFORM, Means(), Alone(), **OPTIONS | {"size": (4, 4)})

    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("no zip")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "float.npz", np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "objects.npz", np.array([{}], dtype=object))
    (tmp_path / "mixed").mkdir()
    for side in (4, 5):
        Image.new("RGB", (side, side)).save(tmp_path / "mixed" / f"{side}.png")
    (tmp_path / "broken").mkdir()
    for name in "ab":
        (tmp_path / "broken" / f"{name}.png").write_bytes(b"no picture")
    (tmp_path / "one").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "one" / "a.png")
    wanted = {
        "empty": "is a folder without an index and without tars",
        "text.npz": "can't be read",
        "other.npz": "is not an .npz with pictures",
        "float.npz": "it must be uint8",
        "objects.npz": "it must be uint8",
        "mixed": "another size",
        "broken": "allow_left_out=0.1 is exceeded: 2 of 2 pictures",
        "one": "holds 1 picture, and a distance is between sets",
    }
    for name, message in wanted.items():
        with pytest.raises(UserError, match=message):
            read(name)
