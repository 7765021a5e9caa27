"""TF32 decides no code and no figure: which settings of torch are in force where float32 is multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stage1_tokenizer.layers.precision import at_precision, float32_as, ieee
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.measuring.features import Vgg16
from stage1_tokenizer.quantizers import nearest
from stage1_tokenizer.quantizers.nearest import nearest_code
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer import tiny

newer = hasattr(torch.backends.cuda.matmul, "fp32_precision")


def in_force() -> tuple[str, str]:
    """How products and convolutions of float32 would be computed here on a GPU."""
    backends: Any = torch.backends
    if newer:
        products, convolutions = backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision
        return tuple("tf32" if how == "tf32" else "ieee" for how in (products, convolutions))  # type: ignore[return-value]
    allowed = (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32)
    return tuple("tf32" if tf32 else "ieee" for tf32 in allowed)  # type: ignore[return-value]


def on_cpus() -> str:
    """How products of float32 are computed on CPUs that have bf16."""
    return str(torch.backends.mkldnn.matmul.fp32_precision) if newer else torch.get_float32_matmul_precision()  # type: ignore[attr-defined]


def by_older_names() -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True


def by_newer_names() -> None:
    for place in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul):  # type: ignore[attr-defined]
        place.fp32_precision = "tf32"


SETTINGS: dict[str, Callable[[], None]] = {"torch's": lambda: None, "older": by_older_names}
if newer:
    SETTINGS["newer"] = by_newer_names


@pytest.fixture(params=SETTINGS)
def settings(request: pytest.FixtureRequest) -> Iterator[str]:
    """A program's own settings of torch, which are left as they are."""
    SETTINGS[request.param]()
    yield request.param
    if newer:
        for place in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):  # type: ignore[attr-defined]
            place.fp32_precision = "none"
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


class Seen(list[tuple[str, str]]):
    """What was in force in the forwards of a module's layers."""

    def of(self, module: nn.Module) -> Seen:
        for layer in list(module.modules())[1:]:
            layer.register_forward_hook(lambda *_: self.append(in_force()))
        return self


def lpips() -> LPIPS:
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    pairs = zip([3, *widths[:-1]], widths, strict=True)
    kernels = [(torch.randn(out, inputs, 3, 3) / 50, torch.zeros(out)) for inputs, out in pairs]
    return LPIPS("vgg", kernels, [torch.rand(width) for width in (64, 128, 256, 512, 512)])


def test_the_settings_are_restored_exactly(settings: str) -> None:
    before = in_force(), on_cpus()
    for how in ("ieee", "tf32"):
        with float32_as(how):  # type: ignore[arg-type]
            assert in_force() == (how, how)
        assert (in_force(), on_cpus()) == before
    with pytest.raises(KeyError), float32_as("ieee"):
        raise KeyError
    assert (in_force(), on_cpus()) == before


def test_an_outer_choice_is_kept_where_ieee_is_the_default_but_not_where_it_is_pinned(settings: str) -> None:
    own = in_force()
    with float32_as("tf32"), ieee():
        assert in_force() == ("tf32", "tf32")
        with float32_as("ieee"):
            assert in_force() == ("ieee", "ieee")
        assert in_force() == ("tf32", "tf32")
    with float32_as(None), ieee():
        assert in_force() == own
    with ieee(), ieee():
        assert in_force() == ("ieee", "ieee")
    assert in_force() == own


def test_encode_decode_and_reconstruct_multiply_as_ieee_says(settings: str) -> None:
    tokenizer = tiny.tokenizer()
    seen, own = Seen().of(tokenizer), in_force()
    tokenizer.decode(tokenizer.encode(torch.zeros(1, 1, 16, 16)))
    tokenizer.reconstruct(torch.zeros(1, 1, 16, 16))
    assert len(seen) > 20 and set(seen) == {("ieee", "ieee")}
    seen.clear()
    with at_precision("tf32"):
        tokenizer.encode(torch.zeros(1, 1, 16, 16))
    assert seen[0] == ("tf32", "tf32")
    seen.clear()
    tokenizer.encoder(torch.zeros(1, 1, 16, 16))  # a user's own call, as in training
    assert set(seen) == {own}


def test_lpips_and_features_multiply_as_ieee_says_but_follow_the_choice_of_training(settings: str) -> None:
    metric, x_BCHW = lpips(), torch.zeros(1, 3, 32, 32)
    seen, own = Seen().of(metric), in_force()
    metric(x_BCHW, x_BCHW)
    Vgg16(metric)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert set(seen) == {("ieee", "ieee")}
    seen.clear()
    with float32_as(None):
        metric(x_BCHW, x_BCHW)
    assert set(seen) == {own}


def test_the_search_pins_ieee_whatever_is_chosen_around_it(settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, searched = [], nearest.plain_search

    def watched(z_ND: Tensor, code_KD: Tensor) -> Tensor:
        seen.append((in_force(), on_cpus()))
        return searched(z_ND, code_KD)

    monkeypatch.setattr(nearest, "plain_search", watched)
    with float32_as("tf32"):
        nearest_code(torch.randn(5, 4), torch.randn(7, 4))
    nearest_code(torch.randn(5, 4), torch.randn(7, 4))
    tiny.tokenizer().quantizer(torch.randn(1, 4, 8, 8))
    operator = nearest.operator
    assert operator is not None and len(operator(torch.randn(5, 4), torch.randn(7, 4))) == 5
    assert len(seen) == 4
    assert {products for (products, _), _ in seen} == {"ieee"}
    assert {how for _, how in seen} <= {"ieee", "highest"}


@pytest.mark.parametrize(("setting", "how"), [("torch", None), ("never", "ieee"), ("always", "tf32")])
def test_training_computes_as_run_tf32_says(
    setting: str, how: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """The networks of a step; its evaluation always in IEEE float32."""
    from stage1_tokenizer import train

    seen: dict[str, set[tuple[str, str]]] = {"train": set(), "evaluate": set()}
    forward, reconstruct = Tokenizer.forward, Tokenizer.reconstruct

    def stepped(self: Tokenizer, *values: Any) -> Any:
        seen["train"].add(in_force())
        return forward(self, *values)

    def measured(self: Tokenizer, *values: Any) -> Any:
        self.encoder.register_forward_pre_hook(lambda *_: seen["evaluate"].add(in_force()))
        return reconstruct(self, *values)

    monkeypatch.setattr(Tokenizer, "forward", stepped)
    monkeypatch.setattr(Tokenizer, "reconstruct", measured)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("sys.argv", ["train", *tiny.arguments(tmp_path / "run", steps=1, run__tf32=setting)])
    assert train.main() == 0
    assert seen["train"] == {(how, how) if how else ("ieee", "tf32")}
    assert seen["evaluate"] == {("ieee", "ieee")}
