"""What holds for every kind of quantizer: round trips, gradients, resumption, one process and two."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

from launch.ranks.reduce import all_mean
from stage1_tokenizer.config.training import QuantizerConfig
from stage1_tokenizer.quantizers import KINDS, Quantizer, build_quantizer
from tests.distributed import run_distributed_test

BASE = QuantizerConfig(codebook_size=16, code_dim=6, scales=[1, 2, 4], levels=[5, 4, 3], codebooks=3, anneal=4)
BINARY = replace(BASE, entropy_bits=3, entropy_boost=2.0)
EVERY = {
    "vq": replace(BASE, start="batch", revive_after=2),
    "vq-kmeans": replace(BASE, start="kmeans", learning="moving_average"),
    "vq-rotation": replace(BASE, gradient="rotation", start="batch"),
    "vq-simvq": replace(BASE, reparametrise="linear"),
    "vq-simvq-affine": replace(BASE, reparametrise="affine"),
    "fsq": replace(BASE, kind="fsq"),
    "lfq": replace(BINARY, kind="lfq"),
    "bsq": replace(BINARY, kind="bsq"),
    "gumbel": replace(BASE, kind="gumbel"),
    # at its usual temperature of 0.01 the entropy makes a hundred times as much of rounding
    "ibq": replace(BASE, kind="ibq", l2_normalise=True, entropy_temperature=1.0),
    "residual": replace(BASE, kind="residual", start="batch", revive_after=2),
    "residual-average": replace(BASE, kind="residual", start="batch", learning="moving_average"),
    "residual-each": replace(
        BASE, kind="residual", projections="each", latent_dim=10, l2_normalise=True, start="batch", strides=[4, 2, 1]
    ),
    "residual-split": replace(BASE, kind="residual", projections="split", latent_dim=10, learning="moving_average"),
    "product": replace(BASE, kind="product", start="batch", l2_normalise=True),
    "multiscale": replace(BASE, kind="multiscale", start="batch", revive_after=2),
}
ADDED = ("residual", "residual-average", "residual-each", "residual-split", "multiscale")
names = pytest.mark.parametrize("name", EVERY)


def latents(quantizer: Quantizer, seed: int = 0) -> Tensor:
    return torch.randn(4, quantizer.input_channels, 4, 4, generator=torch.Generator().manual_seed(seed))


def steps(quantizer: Quantizer, first: int, last: int, rank: int = 0, ranks: int = 1) -> list[Tensor]:
    """Train on this rank's part of global batches, gradients averaged over ranks; the codes of each step."""
    codes = []
    for step in range(first, last):
        z = latents(quantizer, step).requires_grad_()
        torch.manual_seed(step)
        made = quantizer(z.chunk(ranks)[rank])
        weight = latents(quantizer, 100 + step)[:, : made.latents.shape[1]].chunk(ranks)[rank]
        (sum(made.losses.values(), torch.zeros(())) + (made.latents * weight).mean()).backward()
        for parameter in quantizer.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.5 * all_mean(parameter.grad)
                parameter.grad = None
        codes.append(made.codes)
    return codes


def trained(name: str, count: int = 3) -> Quantizer:
    torch.manual_seed(0)
    quantizer = build_quantizer(EVERY[name]).train()
    steps(quantizer, 0, count)
    return quantizer


def test_settings_and_table_name_the_same_kinds() -> None:
    assert set(get_args(get_type_hints(QuantizerConfig)["kind"])) == set(KINDS)
    for kind in KINDS:
        config = QuantizerConfig(kind=kind)  # type: ignore[arg-type]
        quantizer = build_quantizer(config)
        assert config.width == quantizer.latent_channels
        assert quantizer.input_channels == quantizer.latent_channels * (1 + config.double_input)


def test_every_kind_is_here() -> None:
    assert {config.kind for config in EVERY.values()} == set(KINDS) - {"gaussian"}


@names
def test_codes_embed_to_what_the_decoder_saw_and_back(name: str) -> None:
    quantizer = trained(name).eval()
    made = quantizer(latents(quantizer))
    assert made.codes.dtype == torch.int64
    assert made.codes.shape == (4, *quantizer.codes_shape((4, 4)))
    assert 0 <= int(made.codes.min()) <= int(made.codes.max()) < quantizer.codebook_size
    quantizer.check_codes(made.codes.shape, 2)
    assert torch.equal(quantizer.embed(made.codes), made.latents)
    if name in ADDED:
        with pytest.raises(TypeError, match="cannot be recovered from a sum"):
            quantizer.nearest(made.latents)
    else:
        assert torch.equal(quantizer.nearest(made.latents), made.codes)


@pytest.mark.parametrize("name", ["fsq", "lfq", "bsq"])
def test_every_code_of_a_fixed_codebook_comes_back(name: str) -> None:
    quantizer = build_quantizer(EVERY[name])
    every = torch.arange(quantizer.codebook_size).view(1, -1, 1)
    assert torch.equal(quantizer.nearest(quantizer.embed(every)), every)


def test_fsq_takes_the_nearest_level_of_latents_that_are_none() -> None:
    """Levels 5, 4, 3: halves of 2, 2, 1 around 0; the digits count from the lowest level, the first channel first."""
    quantizer = build_quantizer(EVERY["fsq"])
    for latent, digits in (
        ([-0.8, -0.3, 0.4], (0, 1, 1)),
        ([0.3, -0.8, 0.6], (3, 0, 2)),
        ([1.9, 1.9, 1.9], (4, 3, 2)),
        ([-1.9, -1.9, -1.9], (0, 0, 0)),
    ):
        code = digits[0] + 5 * digits[1] + 5 * 4 * digits[2]
        assert quantizer.nearest(torch.tensor(latent).view(1, 3, 1)).item() == code, latent


@pytest.mark.parametrize("name", ["vq-rotation", "vq-simvq", "fsq", "lfq", "bsq", "gumbel", "ibq", "product"])
def test_training_shows_the_decoder_what_embed_gives(name: str) -> None:
    quantizer = trained(name)
    made = quantizer(latents(quantizer, 7))  # these kinds move no code inside forward after their start
    assert torch.equal(quantizer.embed(made.codes), made.latents)


@pytest.mark.parametrize("name", ["vq", "vq-kmeans", "vq-simvq", "residual", "residual-average", "multiscale", "lfq"])
def test_gradient_passes_straight_through_once(name: str) -> None:
    quantizer = trained(name)
    z = latents(quantizer).requires_grad_()
    weight = torch.randn(z.shape)
    (towards_z,) = torch.autograd.grad((quantizer(z).latents * weight).sum(), z)
    assert torch.equal(towards_z, weight)


@pytest.mark.parametrize("name", ["vq", "vq-rotation", "vq-simvq", "residual", "product", "multiscale"])
def test_the_decoders_gradient_does_not_reach_the_codes(name: str) -> None:
    """Codes learn from their own loss: the latents carry a gradient to the quantizer's input alone."""
    quantizer = trained(name)
    codes = [parameter for parameter in quantizer.parameters() if parameter.requires_grad]
    made = quantizer(latents(quantizer).requires_grad_())
    found = torch.autograd.grad(made.latents.square().sum(), codes, allow_unused=True, retain_graph=True)
    assert codes and all(gradient is None for gradient in found)
    towards = torch.autograd.grad(made.losses["codebook"], codes, allow_unused=True)
    assert any(gradient is not None and bool(gradient.any()) for gradient in towards)


def test_rotation_bears_a_latent_of_length_zero() -> None:
    quantizer = trained("vq-rotation").eval()
    z = torch.zeros(1, 6, 1, 1, requires_grad=True)
    (towards_z,) = torch.autograd.grad(quantizer(z).latents.sum(), z)
    assert towards_z.isfinite().all()


def test_rotation_turns_the_gradient_as_the_latent_is_turned() -> None:
    quantizer = trained("vq-rotation").eval()
    z = latents(quantizer).requires_grad_()
    made = quantizer(z)
    z_D, e_D = z[0, :, 1, 2].detach(), made.latents[0, :, 1, 2].detach()
    jacobian = torch.stack(
        [torch.autograd.grad(made.latents[0, row, 1, 2], z, retain_graph=True)[0] for row in range(6)]
    )
    matrix = jacobian[:, 0, :, 1, 2]
    torch.testing.assert_close(matrix @ z_D, e_D)  # it carries z to e: a rotation times a scale
    scale = e_D.norm() / z_D.norm()
    torch.testing.assert_close(matrix @ matrix.T, scale**2 * torch.eye(6), rtol=1e-4, atol=1e-5)
    assert float(torch.det(matrix / scale)) == pytest.approx(1, abs=1e-4)


@names
def test_saved_and_resumed_is_bit_exact(name: str) -> None:
    quantizer, other = trained(name), build_quantizer(EVERY[name]).train()
    other.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    first, second = steps(quantizer, 3, 6), steps(other, 3, 6)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    expected = quantizer.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())


def test_a_state_holds_what_is_learned_and_counted_and_no_constants() -> None:
    """Released tokenizers and their fingerprints are made of these names."""
    found = {name: list(build_quantizer(EVERY[name]).state_dict()) for name in ("fsq", "lfq", "bsq", "vq", "vq-kmeans")}
    assert found == {
        "fsq": [],
        "lfq": ["statistics._extra_state"],
        "bsq": ["statistics._extra_state"],
        "vq": ["embedding.weight", "statistics.used_K", "statistics._extra_state"],
        "vq-kmeans": [
            "embedding.weight",
            *("statistics.used_K", "statistics.share_K", "statistics.sum_KD", "statistics._extra_state"),
        ],
    }


@names
def test_weights_alone_can_be_loaded(name: str) -> None:
    quantizer, other = trained(name).eval(), build_quantizer(EVERY[name]).eval()
    weights = {key: value for key, value in quantizer.state_dict().items() if "statistics." not in key}
    other.load_state_dict(weights)
    z = latents(quantizer)
    assert torch.equal(other(z).latents, quantizer(z).latents)


def on_part(name: str, rank: int, ranks: int) -> dict[str, Any]:
    torch.manual_seed(0)
    quantizer = build_quantizer(EVERY[name]).train(name != "gumbel")  # each rank has its own noise
    codes = steps(quantizer, 0, 4, rank, ranks)
    state = {key: value.detach().numpy() for key, value in quantizer.state_dict().items()}
    return state | {"codes": torch.stack(codes).numpy()}


def on_rank() -> dict[str, dict[str, Any]]:
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return {name: on_part(name, rank, ranks) for name in EVERY}


def test_two_ranks_equal_one_process_on_the_same_batch() -> None:
    first, second = run_distributed_test(on_rank, timeout=400)
    for name in EVERY:
        alone = on_part(name, 0, 1)
        codes = np.concatenate([first[name].pop("codes"), second[name].pop("codes")], axis=1)
        assert np.array_equal(codes, alone.pop("codes")), name
        for key, value in alone.items():
            np.testing.assert_allclose(first[name][key], value, rtol=1e-5, atol=1e-6, err_msg=f"{name} {key}")
            assert np.array_equal(first[name][key], second[name][key]), f"{name} {key}"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"kind": "lfq", "codebook_size": 1000}, "codebook_size=1000 is no power of 2, as lfq needs: set it to 512"),
        ({"kind": "product", "code_dim": 7, "codebooks": 3}, "code_dim=7 is no multiple of codebooks=3: set it to 6"),
        ({"kind": "residual", "l2_normalise": True}, "l2_normalise=True is not supported"),
        ({"projections": "each"}, "projections=each is for residual"),
        ({"codebook_dropout": 0.5}, "codebook_dropout=0.5 is no share, or not for residual"),
        ({"kind": "residual", "codebook_dropout": 0.5, "codebook_dropout_from": 5}, "from=5 is not from 1 to 4: set"),
        ({"kind": "residual", "codebook_dropout_from": 2}, "codebook_dropout_from=2 is not from 1 to 1, as codebook_d"),
        ({"kind": "residual", "codebook_dropout": 1.5}, "codebook_dropout=1.5 is no share"),
        ({"kind": "residual", "strides": [2, 1]}, "strides=[2, 1] must be []"),
        ({"kind": "multiscale", "scales": [1, 4, 2]}, "must rise"),
        ({"kind": "multiscale", "learning": "moving_average"}, "set it to gradient"),
        ({"kind": "fsq", "levels": [8, 1]}, "from 2 on"),
        ({"reparametrise": "linear", "revive_after": 5}, "revive_after=0"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=r"model\.quantizer\.") as error:
        QuantizerConfig(**changes)
    assert rule in str(error.value)


@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_the_sign_of_zero_is_minus_one(name: str) -> None:
    """As the published code has it: sign(z) is 1 for z > 0, else -1. (Yu et al. 2023, MAGVIT-v2, eq. 3)"""
    quantizer = build_quantizer(EVERY[name])
    z = torch.zeros(1, quantizer.input_channels, 1, 1)
    z[0, 1] = 0.3
    made = quantizer(z)
    assert (made.latents > 0).flatten().tolist() == [False, True, *[False] * (quantizer.input_channels - 2)]
    assert made.codes.item() == quantizer.nearest(z).item() == 2 ** (quantizer.input_channels - 2)


def test_codes_of_the_wrong_form_are_refused() -> None:
    for name, axes in (
        ("product", "4 axes: batch, 3 codebooks, then the grid"),
        ("vq", "3 axes: batch, then the grid"),
    ):
        with pytest.raises(ValueError, match=axes):
            build_quantizer(EVERY[name]).check_codes((2, 4), 2)
    for name, shape in (("residual", (2, 4, 4)), ("residual", (2, 4, 4, 4)), ("multiscale", (2, 4, 4)), ("vq", (2, 4))):
        with pytest.raises(ValueError, match="codes of shape"):
            build_quantizer(EVERY[name]).check_codes(shape, 2)
    with pytest.raises(ValueError, match="last"):
        build_quantizer(EVERY["multiscale"]).codes_shape((8, 8))
