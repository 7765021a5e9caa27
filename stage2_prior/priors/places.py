"""What the delay and the depth prior share: a stock Llama over the places of codes of several codebooks.

Its input at a step is the sum of the embeddings of the step before's codes, its output at a step is about this step's
codes. A step is a place, or with delays has codes of several places (stage2_prior.generation.delays).

Codes lie as the tokenizer gives them, code_BN = (G, h, w) or (G, T) in one row. Shapes: B batch, P places, G codebooks,
N = G·P codes, S steps, D width.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from stage1_tokenizer.layers.precision import without_autocast
from stage2_prior.codes.source import CodeSource, Form
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.generation.delays import Delays
from stage2_prior.generation.places import CachedPlaces, decode_places
from stage2_prior.priors.base import DESCRIPTION, Prior
from stage2_prior.priors.llama import through_layers
from stage2_prior.priors.stock import stock_model


class PlacesPrior(Prior):
    """Steps one after the other, each given the condition and all codes of the steps before."""

    one_by_one = True
    forms: ClassVar[tuple[Form, ...]] = ("levels",)
    assumed_codes: ClassVar[dict[str, Any]] = {"codebooks": 4}
    in_order = True

    def __init__(
        self, lm: Any, vocabulary: Vocabulary, source: CodeSource, delays: Sequence[int] = (), **modules: nn.Module
    ):
        """`delays` are steps for each codebook; none are none."""
        super().__init__(lm, vocabulary, source, **modules)
        self.delays = Delays(delays or [0] * source.codebooks, self.places)

    @property
    def places(self) -> int:
        """P, the places of a sample."""
        return self.source.positions // self.source.codebooks

    @property
    def described(self) -> dict[str, Any]:
        """The delays, where there are any."""
        return {"delays": list(self.delays.steps_G)} if self.delays else {}

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary, source: CodeSource) -> Self:
        """The prior of an export, float32, on the CPU, in evaluation mode."""
        described = json.loads((folder / DESCRIPTION).read_text())
        lm, modules = stock_model(cls.stock, folder), cls.modules_of(folder, source, described)
        return cls(lm, vocabulary, source, described.get("delays", ()), **modules).eval()

    @classmethod
    def modules_of(cls, folder: Path, source: CodeSource, described: dict[str, Any]) -> dict[str, nn.Module]:
        """The modules of an export besides the Llama over the places."""
        return {}

    def outputs(self, token_BPG: Tensor, token_B: Tensor) -> Tensor:
        """The Llama's output y_BSD about each step's codes, given the condition and those of the steps before."""
        embed = self.lm.get_input_embeddings()
        condition_BTD = self.embedded(token_B)
        if self.delays:
            before_BSD = self.delays.spread(embed(token_BPG), 0.0)[:, :-1].sum(2)
        else:
            before_BSD = embed(token_BPG[:, :-1]).sum(2)
        x_BTD = torch.cat([condition_BTD, before_BSD], dim=1)
        y_BTD = through_layers(self.lm.base_model, x_BTD)
        return y_BTD[:, self.condition.prefix :] if self.condition.prefix else y_BTD

    @property
    def cache_settings(self) -> dict[str, Any]:
        """What CachedPlaces needs to know besides weights."""
        first_tokens, compiled = self.vocabulary.first_tokens, self.compiled_steps
        return {
            "delays": self.delays,
            "prefix": self.condition.prefix,
            "first_tokens": first_tokens,
            "compiled": compiled,
        }

    def cached(self) -> CachedPlaces:
        """Its weights as sampling takes them."""
        raise NotImplementedError

    @without_autocast
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN step by step, which are the steps of schedules; see Prior.sample."""
        null, embedded = self.condition.null, self.embedded
        cached = self.laid_out(self.cached)
        return decode_places(cached, token_B, uniform_BU, drawing, null=null, given_BN=given_BN, embedded=embedded)
