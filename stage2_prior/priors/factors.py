"""The autoregressive prior over codes in factors (model.head=factors): Open-MAGVIT2's two transformers.

A stock Llama runs over the codes, each read as the sum of its factors' embeddings. Its output about a code is the first
input of a second, small stock Llama, which predicts the code's factors one after the other. So a code out of 2^18 takes
three softmaxes over 64 values, or as many as `model.factors` says.

p(codes | class) = Π_n Π_f p(factor_nf | class, codes before n, factors before f of n). (Luo et al. 2024, section 3.2)

Shapes: B batch, N codes, F factors, D width.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from stage1_tokenizer.layers.precision import without_autocast
from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.factors import factors_for
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.places import CachedPlaces, decode_places
from stage2_prior.priors.base import needs_vqloom
from stage2_prior.priors.factored import FactoredPrior
from stage2_prior.priors.places import PlacesPrior
from stage2_prior.priors.predicted_factors import PredictedFactors
from stage2_prior.priors.stock import Work, llama_settings, stock_model, with_head, without_head

LOADERS: dict[str, Any] = {"factors": partial(stock_model, "AutoModelForCausalLM")}
"""What loads the small Llama, and its name."""


class FactorsPrior(FactoredPrior, PlacesPrior):
    """Codes one after the other, and the factors of each one after the other."""

    kind = "autoregressive"
    head = "factors"
    stock = "AutoModel"
    loaders: ClassVar = LOADERS
    forms = ("grid",)
    assumed_codes: ClassVar[dict[str, Any]] = {}

    factors: Any

    def __init__(
        self, lm: Any, vocabulary: Vocabulary, source: CodeSource, delays: Sequence[int] = (), **modules: nn.Module
    ):
        """There are no delays."""
        super().__init__(lm, vocabulary, source, [0] * len(vocabulary.factors), **modules)

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> Self:
        """A prior with fresh weights, from torch's generator."""
        lm = without_head(llama_settings(config, vocabulary.size, config.prefix + source.positions))
        return cls(lm, vocabulary, source, factors=small_llama(config, vocabulary))

    @classmethod
    def modules_of(cls, folder: Path, source: CodeSource, described: dict[str, Any]) -> dict[str, nn.Module]:
        """The small Llama of an export."""
        return {name: load(folder / name) for name, load in cls.loaders.items()}

    def work(self) -> list[Work]:
        """A code is one token of the large Llama and F of the small one."""
        codes, text = self.source.positions, self.condition.prefix
        over_codes = Work(self.lm, (text + codes) / codes, (text + codes) / 2)
        return [over_codes, factors_work(self.factors, self.vocabulary), *self.condition.work(codes)]

    @classmethod
    def layers_per_code(cls, config: PriorModelConfig, source: CodeSource) -> float:
        """Those of the small Llama count for each factor."""
        return layers_with_factors(cls.kind, config, source)

    def usage(self, name: str) -> str:
        """Plain transformers load both Llamas, which take turns in sampling."""
        why = "a transformer over the codes and one over the factors of each code take turns"
        stock = (
            f"`{self.stock}.from_pretrained` loads the one in `{name}`, `AutoModelForCausalLM` the one in `factors/`"
        )
        return needs_vqloom(why, stock)

    def predicted(self, code_BN: Tensor, token_B: Tensor) -> Any:
        """What is predicted of every code, given the condition and the codes before it."""
        token_BNF = self.vocabulary.code_tokens(self.vocabulary.digits(code_BN))
        return PredictedFactors(self.outputs(token_BNF, token_B), self.factors, self.vocabulary)

    def cached(self) -> CachedPlaces:
        """Its weights as sampling takes them."""
        heads = self.factors.lm_head.weight.split(self.vocabulary.sizes)
        bodies = [self.factors.model] * len(heads)
        return CachedPlaces(self.lm, heads, bodies, self.factors.model.embed_tokens.weight, **self.cache_settings)

    def draws(self, drawing: Drawing) -> int:
        """A number for each factor of each code."""
        return self.source.positions * len(self.vocabulary.factors)

    @without_autocast
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN, factor by factor, within each of which cut-offs act; see Prior.sample."""
        digit_BX = None
        if given_BN is not None:
            digit_BX = self.vocabulary.digits(given_BN).transpose(1, 2).flatten(1)
        how: dict[str, Any] = {"null": self.condition.null, "given_BN": digit_BX, "embedded": self.embedded}
        drawn_BX = decode_places(self.laid_out(self.cached), token_B, uniform_BU, drawing, **how)
        return self.joined(drawn_BX.unflatten(1, (len(self.vocabulary.factors), -1)).transpose(1, 2))


def small_llama(config: PriorModelConfig, vocabulary: Vocabulary) -> Any:
    """The small Llama over factors; nothing reads the last one's values: tied, all is used where there is one."""
    tied, factors = config.tied or len(vocabulary.factors) == 1, len(vocabulary.factors)
    changes: dict[str, Any] = {"num_hidden_layers": config.head_layers, "tie_word_embeddings": tied}
    return with_head(llama_settings(config, vocabulary.codes, factors, **changes))


def layers_with_factors(kind: str, config: PriorModelConfig, source: CodeSource) -> float:
    """Layers that a code passes: those over codes, and the small Llama's once for each factor."""
    factors = factors_for(kind, "factors", config.factors, source.codebook_size)
    return config.layers + config.head_layers * len(factors)


def factors_work(llama: Any, vocabulary: Vocabulary) -> Work:
    """The small Llama's work for each code; each factor is multiplied by its own rows of the head."""
    count = len(vocabulary.factors)
    idle = vocabulary.codes * (count - 1) // count * llama.config.hidden_size
    return Work(llama, count, count / 2, idle)
