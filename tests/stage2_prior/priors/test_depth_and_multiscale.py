"""The depth and the multiscale prior by themselves: causality, caches, guidance, given codes, what is predicted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from stage1_tokenizer.config.training import QuantizerConfig
from stage1_tokenizer.quantizers import MultiscaleQuantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.places import CachedPlaces
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import build_prior, load_prior
from stage2_prior.priors.depth import DepthPrior
from stage2_prior.priors.fused import install
from stage2_prior.priors.multiscale import CachedScales, MultiscalePrior
from stage2_prior.sampling.pictures import Picture, sample_codes
from stage2_prior.training.cost import cost
from tests.stage2_prior.tiny import CLASSES

CODES, GRID, BOOKS, SCALES = 24, (3, 4), 3, (1, 2, 4)
SOURCES = {
    "depth": CodeSource("f" * 64, CODES, GRID, {}, codebooks=BOOKS),
    "multiscale": CodeSource("f" * 64, CODES, (4, 4), {}, scales=SCALES),
}
KINDS = list(SOURCES)


def prior_of(kind: str, spread: float = 4.0, **settings: Any) -> Prior:
    """A prior of two layers whose choices are far from uniform."""
    torch.manual_seed(0)
    quantizer = MultiscaleQuantizer(QuantizerConfig("multiscale", CODES, code_dim=6, scales=list(SCALES)))
    torch.nn.init.normal_(quantizer.codebook.embedding.weight)
    config = PriorModelConfig(kind=kind, layers=2, depth_layers=2, width=32, heads=4, **settings)  # type: ignore[arg-type]
    prior = build_prior(config, SOURCES[kind], CLASSES, quantizer).eval()
    with torch.no_grad():
        for weight in prior.parameters():
            if weight.ndim == 2:
                weight.mul_(spread)
            elif bool((weight == 1).all()):  # norms whose weights matter
                weight.copy_(torch.linspace(0.8, 1.2, len(weight)))
    return prior


def depth_prior(**settings: Any) -> DepthPrior:
    prior = prior_of("depth", **settings)
    assert isinstance(prior, DepthPrior)
    return prior


def multiscale_prior(**settings: Any) -> MultiscalePrior:
    prior = prior_of("multiscale", **settings)
    assert isinstance(prior, MultiscalePrior)
    return prior


def codes_of(prior: Prior, batch: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(CODES, (batch, prior.source.positions), generator=generator)


def reach(logits: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The embeddings on which a logit depends."""
    gradients = torch.autograd.grad(logits.square().sum(), inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros(x.shape[:-1]) if g is None else g.abs().sum(-1) for g, x in zip(gradients, inputs, strict=True)]


def test_a_depth_prior_attends_to_places_before_and_codes_before_at_its_own_place():
    prior, inputs = depth_prior(spread=3.0), []

    def keep(module: torch.nn.Module, tokens: Any, embedded: torch.Tensor) -> torch.Tensor:
        inputs.append(embedded.detach().requires_grad_())
        return inputs[-1]

    hooks = [one.get_input_embeddings().register_forward_hook(keep) for one in (prior.lm, prior.depth)]
    logits_BPGK = prior.logits(codes_of(prior, 1), torch.tensor([prior.vocabulary.null]))
    for hook in hooks:
        hook.remove()
    assert [tuple(x.shape[:-1]) for x in inputs] == [(1, 1), (1, 11, BOOKS), (1, 12, BOOKS - 1)]
    for place in (0, 1, 7, 11):
        for level in range(BOOKS):
            of_class, before, beside = reach(logits_BPGK[0, place, level], inputs)
            assert of_class.item() > 0
            assert (before[0, :place] > 0).all(), "all codes of the places before, each of every level"
            assert (before[0, place:] == 0).all(), "none of this place or a later one"
            assert (beside[0, place, :level] > 0).all() and (beside[0, place, level:] == 0).all()
            others = torch.arange(12) != place
            assert (beside[0, others] == 0).all(), "other places' codes pass through the first transformer only"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_multiscale_prior_attends_to_its_own_and_coarser_scales_only(device: str):
    prior = multiscale_prior(spread=3.0)
    install(prior, torch.device(device))
    embedded_BND, real = [], prior.pyramid.embedded

    def keep(*given: Any) -> torch.Tensor:
        embedded_BND.append(real(*given).detach().requires_grad_())
        return embedded_BND[-1]

    prior.pyramid.embedded = keep  # type: ignore[method-assign]
    logits_BNK = prior.logits(codes_of(prior, 1), torch.tensor([prior.vocabulary.null]))
    ends = [1, 5, 21]
    for position in range(21):
        (reach_BN,) = reach(logits_BNK[0, position], embedded_BND)
        end = next(end for end in ends if position < end)
        assert (reach_BN[0, :end] > 0).all() and (reach_BN[0, end:] == 0).all()


def test_a_scales_inputs_are_the_tokenizers_latents_of_the_coarser_ones():
    prior, code_BN = multiscale_prior(), codes_of(multiscale_prior(), 2)
    changed_BN = code_BN.clone()
    changed_BN[:, 5:] = (code_BN[:, 5:] + 1) % CODES
    assert torch.equal(prior.pyramid(code_BN), prior.pyramid(changed_BN)), "the last scale's codes are no input"
    quantizer, total = prior.pyramid.quantizer, torch.zeros(())
    for number, idx_BM in enumerate(code_BN.split([1, 4, 16], dim=1)):
        total = prior.pyramid.add(total, number, idx_BM)
    assert torch.equal(total, quantizer.embed(code_BN))
    assert not list(quantizer.parameters()), "the tokenizer's weights are not trained"


def test_cached_logits_equal_uncached_ones_at_every_step_of_places_and_levels():
    for settings in ({}, {"key_value_heads": 2}):
        prior = depth_prior(**settings)
        code_BN, token_B = codes_of(prior, 5), prior.vocabulary.class_tokens(torch.tensor([0, 1, 2, -1, 0]))
        with torch.inference_mode():
            whole_BPGK, code_BPG = prior.logits(code_BN, token_B), prior.arranged(code_BN)
            cached: CachedPlaces = prior.cached()
            for _ in range(2):  # a second use of the same caches must not see the first
                cached.start(5)
                x_BD = cached.embedding_VD[token_B]
                for place in range(prior.places):
                    y_BD, x_BD = cached.place(x_BD[:, None], place), torch.zeros_like(x_BD)
                    for level in range(BOOKS):
                        step_BK = cached.level(y_BD, level, None)
                        torch.testing.assert_close(step_BK, whole_BPGK[:, place, level], atol=1e-4, rtol=1e-4)
                        summand_BD, y_BD = cached.embedded(code_BPG[:, place, level], level)
                        x_BD += summand_BD


def test_cached_logits_equal_uncached_ones_at_every_scale():
    for settings in ({}, {"key_value_heads": 2}):
        prior = multiscale_prior(**settings)
        code_BN, token_B = codes_of(prior, 5), prior.vocabulary.class_tokens(torch.tensor([0, 1, 2, -1, 0]))
        with torch.inference_mode():
            whole, cached = prior.logits(code_BN, token_B).split(prior.pyramid.sizes, dim=1), CachedScales(prior)
            for _ in range(2):
                cached.start(token_B)
                total = torch.zeros(())
                for number, idx_BM in enumerate(code_BN.split(prior.pyramid.sizes, dim=1)):
                    step_BMK = cached.logits(total if number else None, number, None)
                    torch.testing.assert_close(step_BMK, whole[number], atol=1e-4, rtol=1e-4)
                    total = prior.pyramid.add(total, number, idx_BM)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_one_is_no_guidance_and_more_of_it_is_the_formula(kind: str):
    prior = prior_of(kind)
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 1, 2]))
    null_B = torch.full_like(token_B, prior.vocabulary.null)
    uniform_BN = torch.rand(3, prior.draws(Drawing()))
    plain_BN = prior.sample(token_B, uniform_BN, Drawing())
    assert torch.equal(prior.sample(token_B, uniform_BN, Drawing(guidance=1.0)), plain_BN)
    # a scale that is almost 1 takes the path of both halves
    assert torch.equal(prior.sample(token_B, uniform_BN, Drawing(guidance=1.0 + 1e-6)), plain_BN)
    assert torch.equal(
        prior.sample(token_B, uniform_BN, Drawing(guidance=0.0)), prior.sample(null_B, uniform_BN, Drawing())
    )
    until = Drawing(guidance=3.0, temperature=0.0, guidance_until=0.5)
    for drawing, share in ((Drawing(guidance=3.0, temperature=0.0), 1.0), (until, 0.5)):
        greedy_BN = prior.sample(token_B, uniform_BN, drawing)
        with torch.inference_mode():
            of_class, of_null = prior.logits(greedy_BN, token_B), prior.logits(greedy_BN, null_B)
            guided, steps = of_null + 3.0 * (of_class - of_null), of_class.shape[1]
            if isinstance(prior, DepthPrior):
                expected = guided.argmax(-1), of_class.argmax(-1)
                wanted = torch.where(torch.arange(steps)[:, None] < share * steps, *expected)
                wanted = wanted.transpose(1, 2).flatten(1)
            else:
                last = 21 if share == 1 else 5  # of three scales, two begin in the first half
                wanted = torch.where(torch.arange(steps) < last, guided.argmax(-1), of_class.argmax(-1))
        assert torch.equal(wanted, greedy_BN)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_reproducible_and_do_not_depend_on_the_batch(kind: str):
    prior, drawing = prior_of(kind, spread=2.0), Drawing(guidance=2.0, top_k=12, top_p=0.9)
    wanted = [Picture(label, number) for number in range(3) for label in range(3)]
    together = sample_codes(prior, wanted, 7, drawing)
    assert together.shape == (9, *prior.source.shape) and int(together.max()) < CODES
    assert torch.equal(torch.cat([sample_codes(prior, wanted[i : i + 4], 7, drawing) for i in (0, 4, 8)]), together)
    assert not torch.equal(sample_codes(prior, wanted, 8, drawing), together)


@pytest.mark.parametrize("kind", KINDS)
def test_given_codes_stay_and_the_rest_continues_after_them(kind: str):
    prior = prior_of(kind)
    token_B = prior.vocabulary.class_tokens(torch.tensor([0, 2]))
    uniform_BN = torch.rand(2, prior.source.positions)
    free_BN = prior.sample(token_B, uniform_BN, Drawing())
    given_BN = torch.full_like(free_BN, -1)
    given_BN[:, 0] = free_BN[:, 0]
    assert torch.equal(prior.sample(token_B, uniform_BN, Drawing(), given_BN), free_BN)
    given_BN[:, 0] = (free_BN[:, 0] + 1) % CODES
    changed_BN = prior.sample(token_B, uniform_BN, Drawing(), given_BN)
    assert torch.equal(changed_BN[:, 0], given_BN[:, 0]) and not torch.equal(changed_BN, free_BN)


@pytest.mark.parametrize("kind", KINDS)
def test_nats_are_the_loss_and_the_accuracy_counts_the_likeliest_codes(kind: str):
    prior = prior_of(kind, class_dropout=0.0)
    code_BN, label_B = codes_of(prior, 4), torch.tensor([0, 1, 2, -1])
    token_B = prior.vocabulary.class_tokens(label_B)
    loss, nats = prior(code_BN, prior.condition.of_labels(label_B))
    nats_BN, right_BN = prior.score(code_BN, token_B)
    assert nats == loss and loss.item() == pytest.approx(nats_BN.mean().item(), rel=1e-6)
    assert nats_BN.shape == code_BN.shape
    greedy_BN = prior.sample(token_B, torch.zeros(4, prior.source.positions), Drawing(temperature=0.0)).clone()
    assert right_BN is not None and prior.score(greedy_BN, token_B)[1].mean() == 1.0  # type: ignore[union-attr]
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in prior.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_comes_back_whole_and_stock_transformers_loads_it(kind: str, tmp_path: Path):
    import transformers

    prior = prior_of(kind)
    prior.save_pretrained(tmp_path)
    again, token_B = load_prior(tmp_path), prior.vocabulary.class_tokens(torch.tensor([2]))
    assert (again.vocabulary, again.source, again.kind) == (prior.vocabulary, prior.source, kind)
    assert torch.equal(again.score(codes_of(prior, 1), token_B)[0], prior.score(codes_of(prior, 1), token_B)[0])
    stock = getattr(transformers, prior.stock).from_pretrained(tmp_path)
    assert torch.equal(stock.get_input_embeddings().weight, prior.lm.get_input_embeddings().weight)


def test_operations_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    for kind in KINDS:
        prior = prior_of(kind, class_dropout=0.0)
        for transformer in prior.transformers:
            transformer.set_attn_implementation("eager")  # type: ignore[operator]
        with FlopCounterMode(display=False) as counter:
            prior(codes_of(prior, 4), torch.full((4,), prior.vocabulary.null))[0].backward()
        found = counter.get_total_flops() / (4 * prior.source.positions)
        # torch counts the products that masks make useless too, and those with what is inputs
        assert found == pytest.approx(cost(prior).flops_per_code, rel=0.08)
        assert cost(prior).parameters == sum(weight.numel() for weight in prior.parameters())


def test_a_uniform_depth_prior_pays_log2_k_bits_per_code():
    prior = depth_prior()
    torch.nn.init.zeros_(prior.depth.lm_head.weight)
    nats_BN = prior.score(codes_of(prior, 3), prior.vocabulary.class_tokens(torch.tensor([0, 1, -1])))[0]
    assert nats_BN.mean().item() / math.log(2) == pytest.approx(math.log2(CODES), rel=1e-6)


def test_a_dry_run_assumes_the_published_pyramid():
    """Of 256 pixels. (Tian et al. 2024, VAR)"""
    assert MultiscalePrior.assumed_codes == {"scales": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)}
