"""The delay prior, for codes of several codebooks at each place: MusicGen's pattern on a stock Llama.

The codes of codebook g come d_g steps later, by default g. The Llama's input at a step is the sum of the embeddings of
the step before's codes; its output has a head for each codebook, so that one pass draws G codes.

p(codes | condition) = Π_s Π_g p(code_sg | condition, codes of steps < s). (Copet et al. 2023, sections 2.2 and 2.3)

With all delays 0 the codes of a place are independent given those before (their "parallel" pattern); flattened codes
("flattening") are the autoregressive prior's. Where a step has no code of a codebook, it adds nothing to the sum;
theirs has a token of its own there.

Shapes: B batch, P places, G codebooks, N = G·P codes, S steps, K codes of a codebook, D width.
"""

from typing import Self

from torch import Tensor

from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.delays import Delays, checked
from stage2_prior.generation.places import CachedPlaces
from stage2_prior.priors.base import needs_vqloom
from stage2_prior.priors.places import PlacesPrior
from stage2_prior.priors.predicted import Predicted
from stage2_prior.priors.stock import Work, llama_settings, with_head


class DelayPrior(PlacesPrior):
    """All codebooks' codes of a step at once."""

    kind = "delay"
    stock = "AutoModelForCausalLM"

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> Self:
        """A prior with fresh weights, from torch's generator."""
        books = source.codebooks
        delays = range(books) if config.delays is None else checked(config.delays, books)
        steps = Delays(delays, source.positions // books).steps
        lm = with_head(llama_settings(config, vocabulary.size, config.prefix + steps))
        return cls(lm, vocabulary, source, delays)

    def work(self) -> list[Work]:
        """A step's work is shared by its codes."""
        text, codes, steps = self.condition.prefix, self.source.positions, self.delays.steps
        work = [Work(self.lm, steps / codes, text + steps / 2)]
        if text:
            work.append(Work(self.lm, text / codes, text / 2, self.lm.get_output_embeddings().weight.numel()))
        return work + self.condition.work(codes)

    @classmethod
    def layers_per_code(cls, config: PriorModelConfig, source: CodeSource) -> float:
        """A step's codes share the layers."""
        return config.layers / source.codebooks

    def usage(self, name: str) -> str:
        """Plain transformers load it; the steps are vqloom's."""
        steps = ", ".join(map(str, self.delays.steps_G))
        why = f"a step draws a code of each codebook, which come {steps} steps later"
        return needs_vqloom(why, f'`{self.stock}.from_pretrained("{name}")` loads it')

    def predicted(self, code_BN: Tensor, token_B: Tensor) -> Predicted:
        """What is predicted of every code, y_BPGD, given the condition and the codes of the steps before it."""
        y_BSD = self.outputs(self.vocabulary.code_tokens(self.arranged(code_BN)), token_B)
        head, codes = self.lm.lm_head, self.vocabulary.codebook_size
        return Predicted(self.delays.of_steps(y_BSD), head, codes, self.source.codebooks)

    def cached(self) -> CachedPlaces:
        """Its weights as sampling takes them."""
        heads = self.lm.lm_head.weight[: self.vocabulary.codes].chunk(self.source.codebooks)
        return CachedPlaces(self.lm.model, heads, **self.cache_settings)
