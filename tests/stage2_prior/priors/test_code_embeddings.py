"""First embeddings of codes from the codebook: which rows, how large, how alike, and what stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.quantizers import build_quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.base import Prior
from stage2_prior.priors.code_embeddings import begin_as_vectors
from tests.stage2_prior.tiny import CODES, SOURCE, tiny_prior

BOOKS = 3
LEVELS = CodeSource("f" * 64, CODES, (5,), {"kind": "sounds"}, codebooks=BOOKS)
WIDTH = 512
"""So wide that a random projection keeps distances well."""
CASES: dict[str, dict[str, Any]] = {
    "tied": {"tied": True},
    "untied": {},
    "text": {"condition": "text"},
    "masked": {"kind": "masked"},
    "flat": {"source": LEVELS},
    "delay": {"source": LEVELS, "kind": "delay"},
    "depth": {"source": LEVELS, "kind": "depth", "depth_layers": 1},
    "masked-levels": {"source": LEVELS, "kind": "masked"},
}


def layers_of(prior: Prior) -> list[Tensor]:
    """Weights (V, E) of embeddings and output layers; tied ones once."""
    found = [layer for model in prior.transformers for layer in _ends(model) if layer is not None]
    return list({id(layer.weight): layer.weight.detach() for layer in found}.values())


def _ends(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


@pytest.mark.parametrize("name", CASES)
def test_rows_of_codes_are_as_far_apart_as_their_vectors(name: str) -> None:
    settings = {"spread": 1.0, "layers": 1, "width": WIDTH, **CASES[name]}
    before, prior = (layers_of(tiny_prior(**settings)), tiny_prior(**settings))
    books = prior.source.codebooks
    vectors = [5 + 2 * torch.randn(CODES, 8, generator=torch.Generator().manual_seed(book)) for book in range(books)]
    begin_as_vectors(prior, vectors)
    after = layers_of(prior)
    assert len(after) == (1 if name == "tied" else 4 - 1 if name == "depth" else 2)
    for old_VE, new_VE in zip(before, after, strict=True):
        assert torch.equal(new_VE[books * CODES :], old_VE[books * CODES :]), "classes, null and mask keep theirs"
        assert new_VE[: books * CODES].std() == pytest.approx(float(old_VE.std()), rel=0.15)
        for row_KE, vector_KD in zip(new_VE.split(CODES), vectors, strict=False):
            distances = torch.pdist(row_KE), torch.pdist(vector_KD)
            assert torch.corrcoef(torch.stack(distances))[0, 1] > 0.97
        ours, first = new_VE[:CODES] / old_VE.std(), after[0][:CODES] / before[0].std()
        assert torch.allclose(ours, first), "all begin alike"
    if books > 1:
        first, second = after[0][:CODES], after[0][CODES : 2 * CODES]
        alike = torch.nn.functional.normalize(first) @ torch.nn.functional.normalize(second).T
        assert alike.abs().mean() < 0.1, "each codebook has a projection of its own"


@pytest.mark.parametrize(
    ("kind", "changes", "books"),
    [("vq", {}, 1), ("vq", {"l2_normalise": True}, 1), ("ibq", {}, 1), ("gumbel", {}, 1), ("lfq", {}, 1),
     ("bsq", {}, 1), ("fsq", {"levels": [4, 2, 2]}, 1), ("residual", {"codebooks": 2}, 2),
     ("product", {"codebooks": 2}, 2)],
)  # fmt: skip
def test_every_quantizer_with_codes_tells_their_vectors(kind: Any, changes: dict[str, Any], books: int) -> None:
    dims = {"lfq": 4, "bsq": 4, "fsq": 3}.get(kind, 8)
    quantizer = build_quantizer(QuantizerConfig(kind, codebook_size=16, code_dim=dims, **changes)).eval()
    found = quantizer.vectors()
    assert len(found) == books
    for vector_KD in found:
        assert vector_KD.shape == (16, dims // (books if kind == "product" else 1)) and vector_KD.is_floating_point()
        assert len(vector_KD.unique(dim=0)) == 16
    if books == 1:
        idx_Bhw = torch.arange(16).view(1, 4, 4)
        latents_KD = quantizer.embed(idx_Bhw)[0].flatten(1).T
        assert torch.allclose(found[0], latents_KD), "what the decoder reads"


def test_no_codes_no_vectors() -> None:
    with pytest.raises(TypeError, match="kind=gaussian has no vectors"):
        build_quantizer(QuantizerConfig("gaussian")).vectors()


@pytest.mark.parametrize(
    "settings",
    [{"kind": "multiscale"}, {"kind": "unified"}, {"head": "bits"}, {"kind": "depth", "per_level_weights": True}],
)
def test_what_has_no_rows_for_codes_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.code_embeddings=codebook is not supported with model\."):
        PriorModelConfig(code_embeddings="codebook", **settings)


def test_codes_that_are_all_alike_give_no_nan() -> None:
    prior = tiny_prior(spread=1.0)
    begin_as_vectors(prior, [torch.ones(CODES, 4)])
    assert all(torch.isfinite(weight).all() for weight in layers_of(prior)) and SOURCE.codebooks == 1
