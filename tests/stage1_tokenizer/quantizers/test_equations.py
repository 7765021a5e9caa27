"""Quantizers against their equations written plainly, and against vector-quantize-pytorch where it has the same."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.config.training import QuantizerConfig
from stage1_tokenizer.quantizers import build_quantizer
from stage1_tokenizer.quantizers.entropy import binary_entropies, entropy, mean_code, outer, soft_entropies
from stage1_tokenizer.quantizers.multiscale import _nearest_tick
from stage1_tokenizer.quantizers.nearest import kmeans

library = pytest.importorskip("vector_quantize_pytorch", reason="the extra `test` is not installed")


def latents(channels: int, seed: int = 0) -> Tensor:
    return torch.randn(2, channels, 5, 4, generator=torch.Generator().manual_seed(seed))


def rows(z_BDhw: Tensor) -> Tensor:
    return z_BDhw.movedim(1, -1).flatten(0, -2)


def gradients(made: Tensor, z: Tensor) -> Tensor:
    weight = latents(made.shape[1], 9)
    return torch.autograd.grad((made * weight).sum(), z, retain_graph=True)[0]


@pytest.mark.parametrize("rotation", [False, True])
def test_vq_is_the_librarys(rotation: bool) -> None:
    config = QuantizerConfig(codebook_size=16, code_dim=6, gradient="rotation" if rotation else "straight_through")
    ours = build_quantizer(config).train()
    torch.nn.init.normal_(ours.embedding.weight)
    theirs = library.VectorQuantize(
        6, 16, learnable_codebook=True, ema_update=False, rotation_trick=rotation, accept_image_fmap=True,
        commitment_weight=0.25,
    ).train()  # fmt: skip
    theirs._codebook.embed.data[0] = ours.embedding.weight.data
    z = latents(6).requires_grad_()
    made = ours(z)
    latents_BDhw, idx_Bhw, loss = theirs(z)
    assert torch.equal(made.codes, idx_Bhw)
    torch.testing.assert_close(made.latents, latents_BDhw)
    torch.testing.assert_close(gradients(made.latents, z), gradients(latents_BDhw, z))
    torch.testing.assert_close(made.losses["commitment"].view(-1), loss.view(-1))


def test_moving_averages_are_the_librarys_with_its_start() -> None:
    ours = build_quantizer(QuantizerConfig(codebook_size=4, code_dim=3, learning="moving_average", decay=0.8)).train()
    torch.nn.init.normal_(ours.embedding.weight)
    theirs = library.VectorQuantize(3, 4, decay=0.8, rotation_trick=False, accept_image_fmap=True, eps=1e-12).train()
    for target in (theirs._codebook.embed, theirs._codebook.embed_avg):
        target.data[0] = ours.embedding.weight.data
    for step in range(3):
        z = latents(3, step)
        assert torch.equal(ours(z).codes, theirs(z)[1])
        torch.testing.assert_close(ours.embedding.weight, theirs._codebook.embed[0], rtol=1e-4, atol=1e-5)


def test_simvq_is_the_librarys() -> None:
    ours = build_quantizer(QuantizerConfig(codebook_size=16, code_dim=6, reparametrise="linear", gradient="rotation"))
    theirs = library.SimVQ(6, 16, channel_first=True)
    theirs.frozen_codebook.copy_(ours.embedding.weight)
    theirs.code_transform.weight.data = ours.linear.weight.data.clone()
    z = latents(6).requires_grad_()
    made = ours.train()(z)
    latents_BDhw, idx_Bhw, loss = theirs.train()(z)
    assert torch.equal(made.codes, idx_Bhw)
    torch.testing.assert_close(made.latents, latents_BDhw)
    torch.testing.assert_close(gradients(made.latents, z), gradients(latents_BDhw, z))
    total = sum(made.losses.values())
    torch.testing.assert_close(total, loss)
    (expected,) = torch.autograd.grad(loss, theirs.code_transform.weight)
    torch.testing.assert_close(torch.autograd.grad(total, ours.linear.weight)[0], expected)
    assert not ours.embedding.weight.requires_grad


def test_two_levels_of_fsq_are_signs_with_the_curve_steepest_at_zero() -> None:
    """The library's curve for even numbers would put 2 levels at -1 and 0 and be flat where latents begin."""
    quantizer = build_quantizer(QuantizerConfig(kind="fsq", levels=[2, 2, 3]))
    z = (2 * latents(3)).requires_grad_()
    made = quantizer(z)
    assert torch.equal(made.latents[:, :2], torch.where(z[:, :2] > 0, 1.0, -1.0))
    made.latents[:, :2].sum().backward()
    expected = 1.001 * (1 - z[:, :2].detach().tanh().square())
    torch.testing.assert_close(z.grad[:, :2], expected)  # type: ignore[index]
    idx_1N1 = torch.arange(12).view(1, -1, 1)
    embedded = quantizer.embed(idx_1N1)
    assert torch.equal(embedded[0, 0, :4, 0], torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert torch.equal(quantizer.nearest(embedded), idx_1N1)
    assert torch.equal(quantizer.embed(made.codes), made.latents)  # type: ignore[arg-type]
    assert not quantizer.config.binary and QuantizerConfig(kind="fsq", levels=[2, 2]).binary


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [3, 4, 7], [16]])
def test_fsq_is_the_librarys(levels: list[int]) -> None:
    ours, theirs = build_quantizer(QuantizerConfig(kind="fsq", levels=levels)), library.FSQ(levels)
    z = (3 * latents(len(levels))).requires_grad_()
    made = ours(z)
    latents_BDhw, idx_Bhw = theirs(z)
    assert ours.codebook_size == math.prod(levels)
    assert torch.equal(made.codes, idx_Bhw.long())
    torch.testing.assert_close(made.latents, latents_BDhw)
    torch.testing.assert_close(gradients(made.latents, z), gradients(latents_BDhw, z))
    torch.testing.assert_close(ours.embed(made.codes), theirs.indices_to_codes(idx_Bhw))


@pytest.mark.parametrize("spherical", [False, True])
def test_lfq_and_bsq_are_the_librarys(spherical: bool) -> None:
    temperature = 2.0  # theirs is the inverse, of 2 z·c: half of ours, of squared distances
    config = QuantizerConfig(kind="bsq" if spherical else "lfq", codebook_size=2**6, entropy_temperature=temperature)
    ours = build_quantizer(replace(config, entropy_diversity=0.7)).train()
    theirs = library.LFQ(
        codebook_size=2**6, spherical=spherical, commitment_loss_weight=0.25, entropy_loss_weight=0.1,
        diversity_gamma=0.7,
    ).train()  # fmt: skip
    z = latents(6).requires_grad_()
    made = ours(z)
    latents_BDhw, idx_Bhw, loss = theirs(z, inv_temperature=1 / temperature)
    assert torch.equal(made.codes, idx_Bhw.long())
    torch.testing.assert_close(made.latents, latents_BDhw)
    torch.testing.assert_close(gradients(made.latents, z), gradients(latents_BDhw, z))
    total = sum(made.losses.values())
    torch.testing.assert_close(total, loss, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(total, z)[0], torch.autograd.grad(loss, z)[0], rtol=1e-3, atol=1e-6)


def test_residual_is_the_librarys() -> None:
    ours = build_quantizer(QuantizerConfig(kind="residual", codebook_size=8, code_dim=6, codebooks=3)).train()
    theirs = library.ResidualVQ(
        dim=6, codebook_size=8, num_quantizers=3, learnable_codebook=True, ema_update=False,
        rotation_trick=False, commitment_weight=0.25,
    ).train()  # fmt: skip
    for book, layer in zip(ours.books, theirs.layers, strict=True):
        torch.nn.init.normal_(book.embedding.weight)
        layer._codebook.embed.data[0] = book.embedding.weight.data
    z = latents(6)
    made = ours(z)
    latents_1ND, idx_1NG, losses = theirs(rows(z)[None])
    assert torch.equal(rows(made.codes), idx_1NG[0])
    torch.testing.assert_close(rows(made.latents), latents_1ND[0])
    torch.testing.assert_close(made.losses["commitment"], losses.mean())


def test_product_is_a_vq_on_each_share_of_the_channels() -> None:
    ours = build_quantizer(QuantizerConfig(kind="product", codebook_size=8, code_dim=6, codebooks=2)).eval()
    z = latents(6)
    made = ours(z)
    for number, part in enumerate(z.chunk(2, dim=1)):
        alone = ours.books[number](part)
        assert torch.equal(made.codes[:, number], alone.codes)
        assert torch.equal(made.latents.chunk(2, dim=1)[number], alone.latents)


def test_bits_entropies_are_those_of_the_whole_codebook() -> None:
    logit_NL = 2 * torch.randn(30, 7, dtype=torch.float64)
    p_NK = outer(torch.sigmoid(logit_NL))
    assert p_NK.shape == (30, 128)
    code_LK = (torch.arange(128) >> torch.arange(6, -1, -1)[:, None]) & 1
    assert torch.allclose(p_NK, (logit_NL @ code_LK.double()).softmax(1))
    torch.testing.assert_close(mean_code(torch.sigmoid(logit_NL)), p_NK.mean(0))
    each, batch = binary_entropies(logit_NL, 7)
    torch.testing.assert_close(each, entropy(p_NK).mean())
    torch.testing.assert_close(batch, entropy(p_NK.mean(0)))
    assert float(binary_entropies(logit_NL, 3)[1]) >= float(batch)  # independent groups bound it from above
    each, batch = soft_entropies(logit_NL)
    torch.testing.assert_close(each, entropy(logit_NL.softmax(1)).mean())
    torch.testing.assert_close(batch, entropy(logit_NL.softmax(1).mean(0)))


def test_the_entropy_of_what_is_certain_is_zero() -> None:
    p_K = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]], requires_grad=True)
    found = entropy(p_K)
    assert found.tolist() == pytest.approx([0.0, math.log(2)])
    found.sum().backward()
    assert p_K.grad.isfinite().all()


def test_a_codebook_of_2_to_the_36_is_no_burden() -> None:
    ours = build_quantizer(QuantizerConfig(kind="bsq", codebook_size=2**36, entropy_bits=9)).train()
    z = latents(36).requires_grad_()
    made = ours(z)
    sum(made.losses.values()).backward()
    assert z.grad.isfinite().all()
    assert int(made.codes.max()) > 2**32
    assert torch.equal(ours.embed(made.codes), made.latents)


def test_without_annealing_the_entropy_weight_is_constant() -> None:
    terms = []
    for anneal, boost in ((0, 3.0), (4, 1.0)):
        config = QuantizerConfig(kind="lfq", codebook_size=8, entropy_boost=boost, anneal=anneal)
        terms.append(float(build_quantizer(config).train()(latents(3)).losses["entropy"]))
    assert terms[0] == pytest.approx(terms[1])


def test_the_entropy_weight_is_annealed() -> None:
    config = QuantizerConfig(kind="lfq", codebook_size=8, entropy_boost=3.0, anneal=4)
    quantizer, z = build_quantizer(config).train(), latents(3)
    terms = [float(quantizer(z).losses["entropy"]) for _ in range(6)]
    assert [term / terms[-1] for term in terms] == pytest.approx([3.0, 2.5, 2.0, 1.5, 1.0, 1.0], rel=1e-4)


def test_gumbel_draws_by_its_probabilities_and_its_gradient_is_the_softmaxs() -> None:
    config = QuantizerConfig(kind="gumbel", codebook_size=4, code_dim=3, kl_weight=1.0, temperature=0.7)
    quantizer = build_quantizer(config).train()
    torch.manual_seed(1)
    z = torch.randn(1, 3, 1, 1)
    made = quantizer(z.expand(-1, -1, 100, 100))
    p_K = quantizer.proj(z.flatten()).softmax(0)
    share_K = torch.bincount(made.codes.flatten(), minlength=4) / 10_000
    torch.testing.assert_close(share_K, p_K, rtol=0, atol=0.03)
    torch.testing.assert_close(made.losses["kl"], (p_K * (p_K * 4).log()).sum(), rtol=1e-4, atol=1e-5)
    z = z.requires_grad_()
    torch.manual_seed(2)
    towards_z = torch.autograd.grad(quantizer(z).latents.sum(), z)[0]
    torch.manual_seed(2)
    noise = -torch.empty(1, 4).exponential_().log()
    soft = ((quantizer.proj(z.flatten()[None]) + noise) / 0.7).softmax(1) @ quantizer.embedding.weight
    torch.testing.assert_close(towards_z, torch.autograd.grad(soft.sum(), z)[0])
    quantizer = build_quantizer(replace(config, temperature=1.0, temperature_final=0.5, anneal=2)).train()
    assert [quantizer.temperature, quantizer(z) and quantizer.temperature, quantizer(z) and quantizer.temperature] == [
        1.0,
        0.75,
        0.5,
    ]


def test_gumbel_takes_the_likeliest_code_outside_training_and_counts_only_its_steps() -> None:
    config = QuantizerConfig(kind="gumbel", codebook_size=16, code_dim=3, temperature_final=0.5, anneal=2)
    quantizer, z = build_quantizer(config), latents(3)
    assert torch.equal(quantizer.eval()(z).codes.flatten(), quantizer.proj(rows(z)).argmax(1))
    assert quantizer.temperature == 1.0, "an evaluation is no step"
    quantizer.train()
    found = [quantizer(z) and quantizer.temperature for _ in range(4)]
    assert found == pytest.approx([0.75, 0.5, 0.5, 0.5])
    constant = build_quantizer(replace(config, anneal=0)).train()
    assert constant(z) and constant.temperature == 1.0


def test_gumbels_codes_get_the_gradient_of_the_choice_once() -> None:
    quantizer = build_quantizer(QuantizerConfig(kind="gumbel", codebook_size=8, code_dim=3)).train()
    torch.manual_seed(4)
    z = latents(3)
    made = quantizer(z)
    (found,) = torch.autograd.grad(made.latents.sum(), quantizer.embedding.weight)
    torch.manual_seed(4)
    noise = -torch.empty(len(rows(z)), 8).exponential_().log()
    share_NK = ((quantizer.proj(rows(z)) + noise) / quantizer.temperature).softmax(1)
    hard_NK = F.one_hot(made.codes.flatten(), 8).float()
    (wanted,) = torch.autograd.grad(
        ((hard_NK + share_NK - share_NK.detach()) @ quantizer.embedding.weight).sum(), quantizer.embedding.weight
    )
    torch.testing.assert_close(found, wanted)


def test_ibq_starts_small_and_has_the_entropy_of_its_softmax() -> None:
    torch.manual_seed(0)
    config = QuantizerConfig(
        kind="ibq",
        codebook_size=64,
        code_dim=3,
        entropy_weight=0.3,
        entropy_temperature=0.5,
        entropy_boost=2.0,
        anneal=2,
    )
    quantizer = build_quantizer(config)
    most = quantizer.embedding.weight.abs().max().item()
    assert 0.9 / 64 < most <= 1 / 64 and quantizer.embedding.weight.min() < -0.9 / 64
    torch.nn.init.normal_(quantizer.embedding.weight)
    z = latents(3)
    p_NK = (rows(z) @ quantizer.embedding.weight.T / config.entropy_softness).softmax(1)
    wanted = 0.3 * (entropy(p_NK).mean() - config.entropy_diversity * entropy(p_NK.mean(0))).item()
    quantizer.eval()
    assert [quantizer(z).losses["entropy"].item() / wanted for _ in range(2)] == pytest.approx([2, 2], rel=1e-4)
    quantizer.train()
    weights = [quantizer(z).losses["entropy"].item() / wanted for _ in range(4)]
    assert weights == pytest.approx([2.0, 1.5, 1.0, 1.0], rel=1e-4)
    assert "entropy" not in build_quantizer(replace(config, entropy_weight=0.0))(z).losses


def test_ibq_reaches_every_code_and_is_its_equations() -> None:
    quantizer = build_quantizer(QuantizerConfig(kind="ibq", codebook_size=8, code_dim=3, entropy_weight=0.0)).train()
    torch.nn.init.normal_(quantizer.embedding.weight)
    z = latents(3).requires_grad_()
    made, code_KD = quantizer(z), quantizer.embedding.weight
    z_ND = rows(z)
    p_NK = (z_ND @ code_KD.T).softmax(1)
    hard = F.one_hot((z_ND @ code_KD.T).argmax(1), 8).float()
    assert torch.equal(made.codes.flatten(), hard.argmax(1))
    product = (hard - p_NK.detach() + p_NK) @ code_KD
    square = (product - z_ND).square().mean() + (hard @ code_KD.detach() - z_ND).square().mean()
    plain = square + 0.25 * (hard @ code_KD - z_ND.detach()).square().mean()
    ours = sum(made.losses.values())
    torch.testing.assert_close(ours, plain)
    for theirs, mine in ((plain + product.square().sum(), ours + made.latents.square().sum()),):
        for expected, found in zip(
            torch.autograd.grad(theirs, (z, code_KD)), torch.autograd.grad(mine, (z, code_KD)), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            assert bool((found.flatten(1).abs().sum(1) > 0).all())


def test_multiscale_is_its_algorithm() -> None:
    config = QuantizerConfig(kind="multiscale", codebook_size=16, code_dim=3, scales=[1, 2, 3, 4, 6])
    quantizer = build_quantizer(config).train()
    torch.nn.init.normal_(quantizer.codebook.embedding.weight)
    z = torch.randn(2, 3, 6, 6)
    made, code_KD = quantizer(z), quantizer.codebook.embedding.weight
    rest, total, codes, errors = z, torch.zeros_like(z), [], []
    for scale, phi in zip(config.scales, (0, 1, 2, 2, 3), strict=True):
        small = F.adaptive_avg_pool2d(rest, scale)
        idx = torch.cdist(rows(small), code_KD).argmin(1).view(2, scale, scale)
        h = F.interpolate(code_KD[idx].movedim(-1, 1), size=(6, 6), mode="bicubic")
        h = h / 2 + quantizer.phi[phi].conv(h) / 2
        rest, total = rest - h, total + h
        codes.append(idx.flatten(1))
        errors.append((total - z).square().mean())
    assert torch.equal(made.codes, torch.cat(codes, 1))
    torch.testing.assert_close(made.latents, total)
    torch.testing.assert_close(sum(made.losses.values()), 1.25 * torch.stack(errors).mean())


def test_multiscale_dropout_ends_the_sum_and_the_losses_of_some_samples_with_a_drawn_scale() -> None:
    """Here a half of the samples keeps 2 to 4 of 4 scales; the losses of each are means over its own (ImageFolder)."""
    plain = QuantizerConfig(kind="multiscale", codebook_size=16, code_dim=3, scales=[1, 2, 3, 4])
    quantizer = build_quantizer(replace(plain, codebook_dropout=0.5, codebook_dropout_from=2)).train()
    torch.nn.init.normal_(quantizer.codebook.embedding.weight)
    z = torch.randn(200, 3, 4, 4, requires_grad=True)
    torch.manual_seed(3)
    made = quantizer(z)
    with torch.no_grad():
        total, totals = torch.zeros_like(z), []
        for number, idx_BM in enumerate(made.codes.split([1, 4, 9, 16], dim=1)):
            total = quantizer.add_scale(total, number, idx_BM)
            totals.append(total)
        errors_SB = torch.stack([(total - z).square().mean((1, 2, 3)) for total in totals])
        ends_SB = torch.stack([(total - made.latents).abs().amax((1, 2, 3)) < 1e-5 for total in totals])
    assert bool((ends_SB.sum(0) == 1).all())
    assert ends_SB.float().mean(1).tolist() == pytest.approx([0, 1 / 6, 1 / 6, 2 / 3], abs=0.1)
    expected = torch.stack([errors_SB[: end + 1, b].mean() for b, end in enumerate(ends_SB.float().argmax(0))]).mean()
    torch.testing.assert_close(sum(made.losses.values()), 1.25 * expected)
    assert torch.autograd.grad(made.losses["commitment"], z)[0].flatten(1).norm(dim=1).min() > 0
    whole = build_quantizer(plain)
    whole.load_state_dict(quantizer.state_dict())
    assert torch.equal(quantizer.eval()(z).latents, whole(z).latents), "in use there is none"


@pytest.mark.parametrize(("count", "starts"), [(1, [0.0]), (2, [0.0, 0.5]), (3, [0.0, 1 / 3, 2 / 3])])
def test_fewer_than_four_convolutions_share_the_scales_evenly(count: int, starts: list[float]) -> None:
    for number in range(200):
        at = (number + 0.5) / 200
        assert _nearest_tick(at, count) == sum(at > start for start in starts) - 1


def test_four_convolutions_lie_at_twelfths() -> None:
    ticks = [1 / 12, 13 / 36, 23 / 36, 11 / 12]
    for number in range(201):
        at = number / 200
        assert abs(ticks[_nearest_tick(at, 4)] - at) == pytest.approx(min(abs(tick - at) for tick in ticks))


def test_a_pyramid_of_one_scale_is_a_plain_codebook() -> None:
    quantizer = build_quantizer(QuantizerConfig(kind="multiscale", codebook_size=16, code_dim=3, scales=[4]))
    made = quantizer(torch.randn(2, 3, 4, 4))
    code_BDhw = quantizer.codebook.rows(made.codes.flatten()).view(2, 4, 4, 3).movedim(-1, 1)
    torch.testing.assert_close(made.latents, code_BDhw / 2 + quantizer.phi[0].conv(code_BDhw) / 2)


def test_kmeans_on_a_sphere_has_centres_of_length_one_and_leaves_alone_what_has_no_rows() -> None:
    torch.manual_seed(0)
    rows_ND = F.normalize(torch.randn(50, 3), dim=1)
    centre_KD = kmeans(rows_ND, 4, seed=1, sphere=True)
    torch.testing.assert_close(centre_KD.norm(dim=1), torch.ones(4))
    nearest_N = (rows_ND @ centre_KD.T).argmax(1)
    for code in nearest_N.unique():
        torch.testing.assert_close(centre_KD[code], F.normalize(rows_ND[nearest_N == code].mean(0), dim=0))
    one_ND = torch.full((5, 2), 3.0)  # the lowest of equal centres takes all rows
    assert kmeans(one_ND, 3, seed=0).tolist() == [[3.0, 3.0]] * 3


def test_kmeans_finds_the_middle_of_each_heap() -> None:
    middle_KD = torch.tensor([[0.0, 9.0], [9.0, 0.0], [-9.0, -9.0]])
    rows_ND = middle_KD.repeat(40, 1) + 0.1 * torch.randn(120, 2)
    first, found = (kmeans(rows_ND, 3, seed=3, rounds=rounds) for rounds in (0, 10))
    before, after = (float(torch.cdist(rows_ND, each).min(1).values.square().sum()) for each in (first, found))
    assert after < before
    nearest = torch.cdist(rows_ND, found).argmin(1)
    for code in nearest.unique():  # where Lloyd's rounds end, each centre is its rows' mean
        torch.testing.assert_close(found[code], rows_ND[nearest == code].mean(0), rtol=1e-4, atol=1e-4)
