"""Every kind of discriminator: layers by their definitions, one step beside the textbook's, two ranks beside one."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from launch.command.cli import UserError
from stage1_tokenizer.config.training import AdversarialConfig, LossConfig, PerceptualConfig
from stage1_tokenizer.discriminators import build_discriminator, check_discriminator
from stage1_tokenizer.discriminators.blur import Blur
from stage1_tokenizer.discriminators.dino import ProjectedDiscriminator
from stage1_tokenizer.discriminators.dino_vit import EPS, FrozenViT, load_vit
from stage1_tokenizer.discriminators.stylegan import GroupDeviation
from stage1_tokenizer.discriminators.weight_norms import SpectralNorm, advance, spectrally_normal
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer.discriminators import frozen_vit as frozen
from tests.stage1_tokenizer.training.test_step import MODEL, assert_same_gradients, trained
from tests.stage1_tokenizer.training.textbook import one_forward, textbook_step

SMALL = AdversarialConfig(channels=4, layers=2, lecam=0.2, penalty=1.0, penalty_fake=0.5, penalty_every=1)
KINDS = {
    "patch": replace(SMALL, blur=True, spectral_norm=True, norm="none"),
    "stylegan": replace(SMALL, discriminator="stylegan", group=2),
    "stylegan, spectral": replace(SMALL, discriminator="stylegan", group=2, spectral_norm=True),
    "dino": replace(SMALL, discriminator="dino", weights="given", spectral_norm=True, resize=24, norm="group"),
}


def built(config: AdversarialConfig, channels: int = 3) -> nn.Module:
    torch.manual_seed(1)
    if config.discriminator == "dino":
        return ProjectedDiscriminator(config, FrozenViT(frozen.vit_weights())).double()
    return build_discriminator(config, channels).double()


def pictures(count: int = 4) -> Tensor:
    torch.manual_seed(2)
    return torch.rand(count, 3, 16, 16, dtype=torch.float64) * 2 - 1


def generator() -> Tokenizer:
    torch.manual_seed(3)
    return Tokenizer(MODEL).double().train()


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_with_penalties_equals_the_textbooks(kind: str) -> None:
    """R1, R2 and LeCam on each discriminator, and what reaches the generator through it."""
    config = LossConfig(perceptual=PerceptualConfig(weight=0), adversarial=KINDS[kind])
    made, discriminator = generator(), built(KINDS[kind])
    plain_generator, plain_discriminator = copy.deepcopy(made), copy.deepcopy(discriminator)
    advance(plain_discriminator)
    values = textbook_step(config, plain_generator, [(plain_discriminator, 1.0)], None, pictures())
    result = one_forward(config)(made, [discriminator], pictures(), 0)
    assert_same_gradients(made, plain_generator)
    assert_same_gradients(discriminator, plain_discriminator)
    for name, value in values.items():
        assert float(result.metrics[name]) == pytest.approx(value, rel=1e-9)


def two_updates(kind: str, rank: int, ranks: int, wrap: bool) -> dict[str, np.ndarray]:
    """The discriminator's whole state after two steps on this rank's part of each batch."""
    config = LossConfig(perceptual=PerceptualConfig(weight=0), adversarial=KINDS[kind])
    made, discriminator = generator(), built(KINDS[kind])
    modules: tuple[nn.Module, nn.Module] = (made, discriminator)
    if wrap:
        modules = (DistributedDataParallel(made), DistributedDataParallel(discriminator, forward_sync_buffers=False))
    optimizer = torch.optim.SGD(trained(discriminator), lr=0.1)
    step = one_forward(config)
    for number in range(2):
        made.zero_grad()
        step(modules[0], modules[1:], pictures().chunk(ranks)[rank], number)
        optimizer.step()
        optimizer.zero_grad()
    return {name: tensor.numpy() for name, tensor in discriminator.state_dict().items()}


def on_rank() -> dict[str, dict[str, np.ndarray]]:
    distributed = torch.distributed
    return {kind: two_updates(kind, distributed.get_rank(), distributed.get_world_size(), wrap=True) for kind in KINDS}


def test_two_ranks_learn_what_one_does() -> None:
    first, second = run_distributed_test(on_rank)
    for kind in KINDS:
        alone = two_updates(kind, 0, 1, wrap=False)
        for name, tensor in alone.items():
            np.testing.assert_array_equal(first[kind][name], second[kind][name], f"{kind} {name}")
            np.testing.assert_allclose(first[kind][name], tensor, rtol=1e-6, atol=1e-9, err_msg=f"{kind} {name}")


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 2).double()
    weight = layer.weight.detach().clone().requires_grad_()
    spectrally_normal(layer)
    before = copy.deepcopy(layer.state_dict())
    for _ in range(200):
        advance(layer)
    expected = weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
    torch.testing.assert_close(layer.weight, expected)
    (expected.sin().sum()).backward()
    (layer.weight.sin().sum()).backward()
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, weight.grad, atol=1e-8, rtol=1e-6)
    state = copy.deepcopy(layer.state_dict())
    layer(torch.randn(1, 3, 4, 4, dtype=torch.float64))
    assert all(torch.equal(state[name], tensor) for name, tensor in layer.state_dict().items()), "a forward moved them"
    assert any(not torch.equal(before[name], tensor) for name, tensor in state.items())


def test_a_spectral_discriminator_resumes_exactly() -> None:
    def train(discriminator: nn.Module, steps: int) -> nn.Module:
        optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
        for _ in range(steps):
            advance(discriminator)
            discriminator(pictures()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return discriminator

    whole = train(built(KINDS["patch"]), 4)
    half, other = train(built(KINDS["patch"]), 2), build_discriminator(KINDS["patch"], 3).double()
    other.load_state_dict(half.state_dict())
    resumed = train(other, 2).state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.state_dict().items())


def test_under_bf16_the_largest_singular_value_stays_float32() -> None:
    layer = nn.Linear(8, 8)
    spectrally_normal(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.weight.dtype == torch.float32
        under = layer.weight
    assert torch.equal(under, layer.weight)


def test_blur_removes_what_striding_would_fold() -> None:
    fastest = torch.tensor([1.0, -1.0]).repeat(1, 1, 8, 4).view(1, 1, 8, 8)
    assert Blur([1, 2, 1], 2, stride=2, padding=1, mode="reflect")(fastest).abs().max() < 1e-6
    assert fastest[..., ::2].abs().min() == 1, "every second value alone would be a constant"
    flat = torch.full((1, 2, 6), 3.0)
    torch.testing.assert_close(
        Blur([1, 2, 1], 1, stride=2, padding=1, mode="reflect")(flat), torch.full((1, 2, 3), 3.0)
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_blur_keeps_grid_and_names(dims: int) -> None:
    config = AdversarialConfig(channels=4, layers=2)
    plain, blurred = (build_discriminator(replace(config, blur=blur), 1, dims) for blur in (False, True))
    assert list(plain.state_dict()) == list(blurred.state_dict())
    x = torch.randn(2, 1, *[16] * dims)
    assert plain(x).shape == blurred(x).shape


def test_deviation_is_that_of_each_group() -> None:
    h = torch.randn(6, 3, 2, 2)
    out = GroupDeviation(3)(h)
    for group in (slice(0, 3), slice(3, 6)):
        expected = (h[group].std(0, unbiased=False) ** 2 + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[group, 3], expected.expand(3, 2, 2))
    assert torch.equal(out[:, :3], h)
    with pytest.raises(ValueError, match=r"loss\.adversarial\.group=4 does not divide the 6"):
        GroupDeviation(4)(h)


def test_a_residual_discriminator_keeps_the_size_of_its_signal() -> None:
    """Scaled layers and residuals over √2: no width and no depth makes the first logits explode or vanish."""
    torch.manual_seed(0)
    for channels, layers in ((8, 1), (64, 4)):
        discriminator = build_discriminator(
            AdversarialConfig(discriminator="stylegan", channels=channels, layers=layers, group=1), 3
        )
        seen: list[float] = []
        discriminator.linear.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(float(inputs[0].detach().std()))
        )
        discriminator(torch.randn(4, 3, 64, 64))
        assert 0.1 < seen[0] < 2


def test_any_size_of_picture_gives_one_logit() -> None:
    discriminator = build_discriminator(AdversarialConfig(discriminator="stylegan", channels=4, layers=2, group=2), 1)
    assert discriminator(torch.randn(2, 1, 16, 16)).shape == discriminator(torch.randn(2, 1, 40, 24)).shape == (2, 1)


def reference_layer(weights: dict[str, Tensor], number: int) -> nn.TransformerEncoderLayer:
    """torch's own layer with the weights of a block."""
    layer = nn.TransformerEncoderLayer(
        frozen.WIDTH, 2, 4 * frozen.WIDTH, 0.0, F.gelu, EPS, batch_first=True, norm_first=True
    )
    names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj."}
    names |= {"linear1.": "mlp.fc1.", "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2."}
    layer.load_state_dict(
        {
            ours + kind: weights[f"blocks.{number}.{theirs}{kind}"]
            for ours, theirs in names.items()
            for kind in ("weight", "bias")
        }
    )
    return layer


def test_the_frozen_transformer_is_torchs() -> None:
    weights = frozen.vit_weights()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    patches = F.unfold(((x + 1) / 2 - mean) / deviation, frozen.PATCH, stride=frozen.PATCH).transpose(1, 2)
    h = F.linear(patches, weights["patch_embed.proj.weight"].flatten(1), weights["patch_embed.proj.bias"])
    h = torch.cat([weights["cls_token"].expand(2, -1, -1), h], 1) + weights["pos_embed"]
    expected = [h]
    for number in range(frozen.DEPTH):
        expected.append(reference_layer(weights, number)(expected[-1]))
    found = FrozenViT(weights)(x, [-1, *range(frozen.DEPTH)])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_frozen_transformer_is_neither_trained_nor_saved(tmp_path: Path) -> None:
    config = replace(KINDS["dino"], weights=str(frozen.vit_file(tmp_path)), resize=0)
    discriminator = build_discriminator(config, 1)
    names = {name for name, _ in discriminator.named_parameters()} | set(discriminator.state_dict())
    assert names and all(name.startswith("heads.") for name in names)
    x = torch.rand(2, 1, 16, 24).requires_grad_()
    logits = discriminator(x)
    assert logits.shape == (2, 5 * 2 * 3)
    logits.sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match=r"loss\.adversarial\.resize to a multiple of 8"):
        discriminator(torch.rand(2, 1, 20, 24))


def test_a_discriminator_on_frozen_features_learns_to_tell() -> None:
    discriminator = built(replace(KINDS["dino"], spectral_norm=False)).float()
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    x = pictures(8).float()
    real, fake = x, F.avg_pool2d(x, 3, 1, 1)
    for _ in range(12):
        loss = F.relu(1 - discriminator(real)).mean() + F.relu(1 + discriminator(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(discriminator(real).detach().mean()) > 0 > float(discriminator(fake).detach().mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discriminator": "dino"}, "loss.adversarial.weights is not set"),
        ({"weights": "x.pth"}, "only with dino: remove it"),
        ({"discriminator": "stylegan", "blur": True}, "loss.adversarial.blur=true is not supported with"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        AdversarialConfig(**settings)


def test_pictures_that_do_not_fit_are_refused() -> None:
    stylegan = AdversarialConfig(discriminator="stylegan", layers=5, group=4)
    with pytest.raises(ValueError, match=r"model\.spatial_dims=3"):
        build_discriminator(stylegan, 3, 3)
    with pytest.raises(ValueError, match=r"data\.transform\.size=48"):
        stylegan.check_samples(3, 2, 48)
    with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
        KINDS["dino"].check_samples(4, 2)
    with pytest.raises(UserError, match=r"does not divide the 6 pictures of each rank \(data.batch_size=12 on 2\)"):
        check_discriminator(stylegan, 12, 2)
    check_discriminator(stylegan, 12, 1)
    check_discriminator(replace(stylegan, weight=0), 12, 2)


def test_a_file_that_is_no_transformer_is_refused(tmp_path: Path) -> None:
    for name in ("blocks.2.attn.qkv.weight", "pos_embed"):
        for change in (None, torch.zeros(3, 3)):
            weights: dict[str, Any] = frozen.vit_weights()
            weights[name] = change
            if change is None:
                del weights[name]
            torch.save(weights, tmp_path / "wrong.pth")
            with pytest.raises(UserError, match=r"wrong\.pth holds no vision transformer .*dino_deitsmall16") as caught:
                load_vit(str(tmp_path / "wrong.pth"))
            assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is not a file"):
        check_discriminator(replace(KINDS["dino"], weights=str(tmp_path / "none.pth")), 8, 1)


def test_first_iterations_are_enough_to_start() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 576)
    norm = SpectralNorm(weight)
    largest = float(torch.linalg.matrix_norm(norm(weight), 2))
    assert math.isclose(largest, 1, rel_tol=0.05)
