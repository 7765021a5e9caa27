"""The feature networks: VGG16 with its true weights, and Inception's true architecture with random ones.

FID's own weights can't be had here, so that no test stands for their values; what is tested is everything around them.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import pytest
import torch

from data.pictures.transforms import to_float
from launch.command.cli import UserError
from stage1_tokenizer.losses.lpips import load_lpips
from stage1_tokenizer.measuring.features import FID_SHA256, Inception, Vgg16, load_network


def pictures(size: int, channels: int = 3, count: int = 2) -> torch.Tensor:
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(size))


@pytest.fixture(scope="module")
def weights() -> bytes:
    """A file as FID's: the whole state of the true architecture, random but for its scale."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    return file.getvalue()


def test_vgg16_is_torchvisions_up_to_relu5_3():
    import torchvision

    lpips = load_lpips("vgg")
    net = Vgg16(lpips)
    trunk = torchvision.models.vgg16().features[:30].eval()
    kernels = [layer for layer in trunk if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        for layer, frozen in zip(kernels, lpips.layers, strict=True):
            layer.weight.copy_(frozen.weight)
            layer.bias.copy_(frozen.bias)
        x_BCHW = pictures(48)
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        wanted = trunk((x_BCHW / 255 - mean) / deviation).mean((2, 3))
        assert torch.allclose(net(x_BCHW)["pool"], wanted, rtol=2e-2, atol=2e-2)  # LPIPS rounds mean and deviation
        assert torch.equal(net.of_taps(lpips.features(to_float(x_BCHW)))["pool"], net(x_BCHW)["pool"])
        grey = pictures(32, channels=1)
        assert torch.allclose(net(grey)["pool"], net(grey.expand(-1, 3, -1, -1))["pool"], atol=1e-5)
    assert net.names["frechet"] == "frechet_vgg16" and len(net.about["sha256"]) == 64
    with pytest.raises(UserError, match="are too small for vgg16 features, which need 16"):
        net(pictures(8))
    assert load_network("vgg16", lpips=lpips).lpips is lpips  # type: ignore[union-attr]
    assert load_network("none") is None


def test_other_inception_weights_never_give_a_figure_called_fid(weights: bytes, tmp_path: Path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    file = tmp_path / "weights.pth"
    file.write_bytes(weights)
    net = load_network("inception", inception_weights=str(file))
    assert isinstance(net, Inception)
    tag = hashlib.sha256(weights).hexdigest()[:8]
    assert set(net.names.values()).isdisjoint({"fid", "sfid", "inception_score", "kid", "precision", "recall"})
    assert net.names["frechet"] == f"frechet_inception_{tag}"
    plain = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(file))
    kept = []
    plain.Mixed_6d.register_forward_hook(lambda module, given, h_BCHW: kept.append(h_BCHW))
    with torch.no_grad():
        x_BCHW = pictures(40)
        found, (pool_BD, logits_BD) = net(x_BCHW), plain(x_BCHW)
    assert torch.equal(found["pool"], pool_BD) and torch.equal(found["logits"], logits_BD)
    assert {kind: rows.shape[1] for kind, rows in found.items()} == net.widths
    # ADM: height, width, and of the channels of mixed_6 (Mixed_6d here), which begin with its 1×1 branch, seven.
    spatial_BHWC = found["spatial"].unflatten(1, (17, 17, 7))
    assert torch.equal(spatial_BHWC, kept[0].permute(0, 2, 3, 1)[..., :7])


def test_figures_of_the_original_weights_have_the_known_names(weights: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stage1_tokenizer.measuring.features.FID_SHA256", hashlib.sha256(weights).hexdigest())
    names = ["fid", "sfid", "inception_score", "kid", "precision", "recall"]
    assert list(Inception(weights, "here").names.values()) == names
    assert FID_SHA256.startswith("6726825d")  # the hash in the file's own name


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("executed", "w"))  # what a careless unpickler would do


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(3)}, file)
    harmful = io.BytesIO()
    torch.save({"x": Harmful()}, harmful)
    for contents in (file.getvalue(), harmful.getvalue(), pickle.dumps(Harmful()), b"", b"no weights"):
        (tmp_path / "weights.pth").write_bytes(contents)
        with pytest.raises(UserError, match="does not hold the weights of FID's Inception"):
            load_network("inception", inception_weights="weights.pth")
    assert not (tmp_path / "executed").exists()
    with pytest.raises(UserError, match="is not a file"):
        load_network("inception", inception_weights="nowhere.pth")
