"""Settings of heads for huge vocabularies that don't fit each other."""

from __future__ import annotations

from typing import Any

import pytest

from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "depth", "head": "bits"},
            "model.head=bits is not supported with model.kind=depth: set",
        ),
        ({"head": "factors", "order": "random"}, "model.order=random is not supported .* and model.head=factors"),
        ({"factors": [2, 2]}, r"model.factors=\[2, 2\] is not supported .* model.head=softmax: leave it out"),
        ({"head": "bits", "factors": [2, 2]}, "is not supported with model.kind=autoregressive and model.head=bits"),
        ({"head": "factors", "factors": [17, 1]}, "must be numbers of bits from 1 to 16"),
        ({"head": "factors", "head_width": 64}, "model.head_width=64 is not supported"),
    ],
)
def test_settings_of_heads_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PriorModelConfig(**settings)


def test_steps_of_bits_are_numbers_from_one_on() -> None:
    with pytest.raises(ValueError, match=r"bit_steps=\[2, 0\] must be numbers from 1 on"):
        Drawing(bit_steps=[2, 0])
