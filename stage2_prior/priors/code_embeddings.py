"""First embeddings of codes, made from the tokenizer's codebook (`model.code_embeddings=codebook`).

Codes whose vectors lie close stand for nearly the same thing. A prior with random embeddings has to learn that from its
samples; here each code's row begins as a random projection of its vector, which keeps distances on average (Johnson and
Lindenstrauss 1984). It is trained like any other weight, and nothing of the codebook is exported.

Shapes: G codebooks of K codes, D code dimension, E features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stage2_prior.priors.base import Prior


@torch.no_grad()
def begin_as_vectors(prior: Prior, vectors: Sequence[Tensor]) -> None:
    """Let the rows of codes in all embeddings and output layers begin as projections of the codes' vectors.

    `vectors` are those of each codebook, (K, D). Each codebook has a projection of its own, from torch's generator.
    Rows are as large, on average, as those that they replace; input and output of a model get the same ones.
    """
    row_XE = torch.cat([_projected(vector_KD, prior.lm.config.hidden_size) for vector_KD in vectors])
    for transformer in prior.transformers:
        layers = (transformer.get_input_embeddings(), transformer.get_output_embeddings())  # type: ignore[operator]
        for weight_VE in {layer.weight for layer in layers if layer is not None}:
            weight_VE[: len(row_XE)] = row_XE * weight_VE.std()


def _projected(vector_KD: Tensor, features: int) -> Tensor:
    """Rows (K, E) whose elements have mean 0 and variance 1 over all codes and projections."""
    centred_KD = vector_KD.float() - vector_KD.float().mean(0)
    length = centred_KD.square().sum(1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    return centred_KD / length @ torch.randn(vector_KD.shape[1], features)
