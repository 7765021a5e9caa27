"""The depth prior, for codes of several codebooks at each place (residual, product): the RQ-Transformer.

A stock Llama runs over the places, row by row; its input for a place is the sum of the embeddings of its G codes. Its
output at a place is the first input of a second, small stock Llama, which runs over that place's codes.

p(codes | class) = Π_p Π_g p(code_pg | class, codes of places < p, codes < g of p). (Lee et al. 2022, eq. 9 to 12)

With delays (Défossez et al. 2024, Moshi, section 3.4.2) the codes of a step take the part of a place's, and a codebook
without a code at a step adds nothing and is read as zeros. With weights for each level (ibid.) each of the small
Llama's steps has weights of its own: those of a stock Llama, which attends to the steps before by what these kept.

Codes lie as the tokenizer gives them, code_BN = (G, h, w) in one row. Shapes: B batch, P places (h·w), G codebooks,
N = G·P codes, S steps, R = B·S rows of the second Llama, K codes of a codebook, D width.
"""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.delays import Delays, checked
from stage2_prior.generation.places import CachedPlaces
from stage2_prior.priors.base import needs_vqloom
from stage2_prior.priors.llama import KeyValues, through_layers
from stage2_prior.priors.places import PlacesPrior
from stage2_prior.priors.predicted import Predicted, PredictedByLevel
from stage2_prior.priors.stock import Work, llama_settings, stock_model, with_head, without_head


class DepthPrior(PlacesPrior):
    """Places one after the other, and the codes of each one after the other."""

    kind = "depth"
    stock = "AutoModel"
    loaders: ClassVar = {"depth": partial(stock_model, "AutoModelForCausalLM")}

    depth: Any

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> Self:
        """A prior with fresh weights, from torch's generator."""
        books, delays = source.codebooks, checked(config.delays or [0] * source.codebooks, source.codebooks)
        steps = Delays(delays, source.positions // books).steps
        lm = without_head(llama_settings(config, vocabulary.size, config.prefix + steps))
        layers: dict[str, Any] = {"num_hidden_layers": config.depth_layers}
        if not config.per_level_weights:
            depth = with_head(llama_settings(config, vocabulary.codes, books, **layers))
            return cls(lm, vocabulary, source, delays, depth=depth)
        modules = {}
        for level, name in enumerate(level_names(books)):  # nothing reads the last level's codes: tied, all is used
            layers["tie_word_embeddings"] = config.tied or level == books - 1
            modules[name] = with_head(llama_settings(config, vocabulary.codebook_size, books, **layers))
        return cls(lm, vocabulary, source, delays, **modules)

    @property
    def levels(self) -> list[Any]:
        """The small Llama of each level, where each has its own; else there is one, `depth`."""
        return [getattr(self, name) for name in level_names(self.source.codebooks) if hasattr(self, name)]

    @property
    def exported(self) -> dict[str, nn.Module]:
        """See Prior; each level's Llama is a folder."""
        names = level_names(self.source.codebooks) if self.levels else ["depth"]
        return {"": self.lm, **{name: getattr(self, name) for name in names}, **self.condition.modules}

    @property
    def described(self) -> dict[str, Any]:
        """Delays, and whether each level has its weights, where it is so."""
        return super().described | ({"per_level_weights": True} if self.levels else {})

    @classmethod
    def modules_of(cls, folder: Path, source: CodeSource, described: dict[str, Any]) -> dict[str, nn.Module]:
        """The small Llama of an export, or those of its levels."""
        names = level_names(source.codebooks) if described.get("per_level_weights") else ["depth"]
        return {name: cls.loaders["depth"](folder / name) for name in names}

    def work(self) -> list[Work]:
        """A place's work is shared by its G codes; each code is multiplied by its own codebook's share of the head."""
        books, codes, steps, text = (
            self.source.codebooks,
            self.source.positions,
            self.delays.steps,
            self.condition.prefix,
        )
        work = [Work(self.lm, (text + steps) / codes, (text + steps) / 2)]
        if self.levels:
            work += [Work(level, steps / codes, (number + 1) / 2) for number, level in enumerate(self.levels)]
        else:
            idle = (books - 1) * self.vocabulary.codebook_size * self.depth.config.hidden_size
            work.append(Work(self.depth, steps * books / codes, books / 2, idle))
        return work + self.condition.work(codes)

    @classmethod
    def layers_per_code(cls, config: PriorModelConfig, source: CodeSource) -> float:
        """A place's codes share the first transformer's layers."""
        return config.layers / source.codebooks + config.depth_layers

    def usage(self, name: str) -> str:
        """Plain transformers load both Llamas, which take turns in sampling."""
        why = "a transformer over the places and one over the codes of each place take turns"
        others = "those of the levels in `depth_0/` and so on" if self.levels else "the one in `depth/`"
        stock = f"`{self.stock}.from_pretrained` loads the one in `{name}`, `AutoModelForCausalLM` {others}"
        return needs_vqloom(why, stock)

    def predicted(self, code_BN: Tensor, token_B: Tensor) -> Predicted | PredictedByLevel:
        """What is predicted of every code, y_BPGD, given the condition and the codes before it."""
        books, codes = self.source.codebooks, self.vocabulary.codebook_size
        token_BPG = self.vocabulary.code_tokens(self.arranged(code_BN))
        y_BSD = self.outputs(token_BPG, token_B)
        before_BPgD = self.read(token_BPG[..., :-1])
        if self.delays:
            last_BP1D = torch.zeros_like(before_BPgD[:, :, :1])  # of the last codebook, which nothing reads
            before_BPgD = self.delays.spread(torch.cat([before_BPgD, last_BP1D], dim=2), 0.0)[:, :, :-1]
        x_RGD = torch.cat([y_BSD[:, :, None], before_BPgD], dim=2).flatten(0, 1)
        if not self.levels:
            y_RGD = through_layers(self.depth.model, x_RGD)
            y_BPGD = self.delays.gathered(y_RGD.unflatten(0, y_BSD.shape[:2]))
            return Predicted(y_BPGD, self.depth.lm_head, codes, books)
        y_BPGD = self.delays.gathered(self.through_levels(x_RGD).unflatten(0, y_BSD.shape[:2]))
        pairs = zip(self.levels, y_BPGD.unbind(2), strict=True)
        return PredictedByLevel([Predicted(y_BPD, level.lm_head, codes) for level, y_BPD in pairs])

    def read(self, token_BPg: Tensor) -> Tensor:
        """What the small Llama reads of codes, by their tokens of the first g codebooks."""
        if not self.levels:
            x_BPgD: Tensor = self.depth.get_input_embeddings()(token_BPg)
            return x_BPgD
        codes = self.vocabulary.codebook_size
        pairs = zip(self.levels, token_BPg.unbind(-1), strict=False)
        each = [
            level.get_input_embeddings()(token_BP - number * codes) for number, (level, token_BP) in enumerate(pairs)
        ]
        return torch.stack(each, dim=2)

    def through_levels(self, x_RGD: Tensor) -> Tensor:
        """The normed outputs y_RGD where each level has its weights."""
        kept, outputs = KeyValues(), []
        for number, level in enumerate(self.levels):
            at_11 = torch.full((1, 1), number, device=x_RGD.device)
            outputs.append(through_layers(level.model, x_RGD[:, number : number + 1], at_11, kept=kept))
        return torch.cat(outputs, dim=1)

    def cached(self) -> CachedPlaces:
        """Its weights as sampling takes them."""
        books = self.source.codebooks
        if self.levels:
            read_VD = torch.cat([level.model.embed_tokens.weight for level in self.levels])
            bodies, heads = [level.model for level in self.levels], [level.lm_head.weight for level in self.levels]
        else:
            read_VD, bodies = self.depth.model.embed_tokens.weight, [self.depth.model] * books
            heads = list(self.depth.lm_head.weight.chunk(books))
        return CachedPlaces(self.lm, heads, bodies, read_VD, **self.cache_settings)


def level_names(books: int) -> list[str]:
    """The levels' modules and folders where each has its weights."""
    return [f"depth_{level}" for level in range(books)]
