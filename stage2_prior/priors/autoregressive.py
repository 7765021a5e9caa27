"""The autoregressive prior: a stock Llama over [condition, code 1, …, code N] in raster order.

In training the order may be random at first (stage2_prior.priors.random_order). Codes of several codebooks come place
by place, each place's G codes one after the other, so that N = G·P ("flattening": Copet et al. 2023, section 2.2).

p(code_N | condition) = Π_n p(code_n | condition, code_<n). (Esser et al. 2021, eq. 10; Sun et al. 2024 use a Llama)
Shapes: B batch, N positions (h·w codes), P places of G codes each, T = N tokens read, K codes, V vocabulary.
"""

from typing import Any, Self

import torch
from torch import Tensor
from transformers import GenerationConfig

from launch.command.cli import UserError
from stage1_tokenizer.layers.precision import without_autocast
from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.autoregressive import CachedLlama, decode
from stage2_prior.priors.base import Prior, needs_vqloom
from stage2_prior.priors.llama import through_layers
from stage2_prior.priors.predicted import Predicted
from stage2_prior.priors.random_order import Aim
from stage2_prior.priors.stock import Work, llama_settings, with_head


class AutoregressivePrior(Prior):
    """Codes one after the other, each given the condition and all codes before it."""

    kind = "autoregressive"
    one_by_one = True
    stock = "AutoModelForCausalLM"
    forms = ("grid", "levels")
    in_order = True

    def __init__(self, lm: Any, vocabulary: Vocabulary, source: CodeSource):
        super().__init__(lm, vocabulary, source)
        self.aim: Aim | None = None
        """Embeds the next code's place while training in random orders; not part of the stock model."""

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> Self:
        """A prior with fresh weights, from torch's generator."""
        lm = with_head(llama_settings(config, vocabulary.size, config.prefix + source.positions + 1))
        prior = cls(lm, vocabulary, source)
        if config.order == "random":
            if source.codebooks > 1:
                raise UserError(
                    f"model.order=random is not supported with {source.codebooks} codebooks: set it to raster"
                )
            prior.aim = Aim(source.positions, config.width, config.anneal_from, config.anneal_until)
        # Plain `generate` from a class token gives one grid, of codes only.
        prior.lm.generation_config = GenerationConfig(
            suppress_tokens=list(range(vocabulary.codes, vocabulary.size)),
            max_new_tokens=source.positions,
            min_new_tokens=source.positions,
            bos_token_id=None,
            eos_token_id=None,
        )
        return prior

    def work(self) -> list[Work]:
        """Each token attends to half of the others on average; those of a text have no output."""
        codes, text, books = self.source.positions, self.condition.prefix, self.source.codebooks
        others = (books - 1) * self.vocabulary.codebook_size * self.lm.config.hidden_size
        work = [Work(self.lm, 1.0, text + codes / 2, others)]
        if text:
            idle = self.lm.get_output_embeddings().weight.numel()
            work.append(Work(self.lm, text / codes, text / 2, idle))
        return work + self.condition.work(codes)

    def usage(self, name: str) -> str:
        """Plain transformers and vLLM generate codes of a class; texts need their prefix."""
        if self.condition.texts:
            return super().usage(name)
        if self.source.codebooks > 1:
            why = "the codebooks take turns, and a code's token is its codebook's number times K, plus the code"
            return needs_vqloom(why, f'`{self.stock}.from_pretrained("{name}")` loads it')
        grid, first = "×".join(map(str, self.source.grid)), self.condition.prefix + 1
        times = f", {first} times" if first > 1 else ""
        prompt = f"[[{self.vocabulary.codes}] * {first}]" if first > 1 else f"[[{self.vocabulary.codes}]]"
        stock = type(self.lm).__name__.removesuffix("ForCausalLM")
        return f"""With plain transformers, one grid of the most likely codes for each class token{times} (no guidance):

```python
import torch
from transformers import AutoModelForCausalLM

prior = AutoModelForCausalLM.from_pretrained("{name}")
code_BN = prior.generate(torch.tensor({prompt}), do_sample=False)[:, {first}:]  # {grid} codes, row by row
```

It is a stock {stock}: `vllm serve {name} --skip-tokenizer-init` serves it too; send token ids."""

    def predicted(self, code_BN: Tensor, token_B: Tensor, place_BN: Tensor | None = None) -> Predicted:
        """What is predicted of every code, given the condition and the codes before it.

        place_BN are the codes' places on the grid, in the order in which code_BN come; by default row by row.
        """
        if self.source.codebooks > 1:
            return self._flat(code_BN, token_B)
        if place_BN is None:
            x_BTD, at_BT = torch.cat([self.embedded(token_B), self.lm.model.embed_tokens(code_BN[:, :-1])], dim=1), None
        else:
            x_BTD, at_BT = self._in_order(code_BN, token_B, place_BN)
        y_BTD = through_layers(self.lm.model, x_BTD, at_BT)
        return Predicted(y_BTD[:, -code_BN.shape[1] :], self.lm.lm_head, self.vocabulary.codebook_size)

    def _flat(self, code_BN: Tensor, token_B: Tensor) -> Predicted:
        """What is predicted of every code of several codebooks, y_BPGD."""
        books, codes = self.source.codebooks, self.vocabulary.codebook_size
        token_BN = self.vocabulary.code_tokens(self.arranged(code_BN)).flatten(1)
        x_BTD = torch.cat([self.embedded(token_B), self.lm.model.embed_tokens(token_BN[:, :-1])], dim=1)
        y_BND = through_layers(self.lm.model, x_BTD)[:, -token_BN.shape[1] :]
        return Predicted(y_BND.unflatten(1, (-1, books)), self.lm.lm_head, codes, books)

    def _in_order(self, code_BN: Tensor, token_B: Tensor, place_BN: Tensor) -> tuple[Tensor, Tensor]:
        """The embedded tokens x_BTD where codes come in another order, and their places, at_BT."""
        assert self.aim is not None, "only priors trained with order=random know other orders"
        at_BN = torch.cat([torch.zeros_like(place_BN[:, :1]), place_BN[:, :-1] + 1], dim=1)
        first_BTD, text = self.embedded(token_B), self.condition.prefix
        x_BND = torch.cat([first_BTD[:, text:], self.lm.model.embed_tokens(code_BN[:, :-1])], dim=1)
        x_BND = x_BND + self.aim(at_BN, place_BN)
        if text:
            x_BND = torch.cat([first_BTD[:, :text], x_BND], dim=1)
            before_BL = torch.arange(text, device=at_BN.device).expand(len(at_BN), -1)
            at_BN = torch.cat([before_BL, at_BN + text], dim=1)
        return x_BND, at_BN

    def set_progress(self, done: float) -> None:
        """Set the share of the training steps that are done: it decides how many samples come in a random order."""
        if self.aim is not None:
            self.aim.set_progress(done)

    def losses(
        self, read_BN: Tensor, token_B: Tensor, code_BN: Tensor, place_BN: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As of any prior; all in the order of place_BN."""
        predicted = self.predicted(read_BN, token_B, place_BN)
        return predicted.losses(self.arranged(code_BN), self.label_smoothing, self.z_loss)

    def forward(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """The training loss and the mean nats per code; conditions, noise and orders are random."""
        if self.aim is None:
            return super().forward(code_BN, token_B)
        token_B, read_BN = self.dropped(token_B), self.noisy(code_BN)
        uniform_BT = self.sample_noise.uniform(len(code_BN), self.source.positions + 1, device=code_BN.device)
        place_BN = self.aim.orders(uniform_BT)
        code_BN, read_BN = code_BN.gather(1, place_BN), read_BN.gather(1, place_BN)
        loss_BN, nats_BN = self.losses(read_BN, token_B, code_BN, place_BN)
        return loss_BN.mean(), nats_BN.mean()

    @without_autocast
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN one after the other; see Prior.sample."""
        positions = self.condition.prefix + self.source.positions
        codes, compiled, books = self.vocabulary.codebook_size, self.compiled_steps, self.source.codebooks
        llama = self.laid_out(lambda: CachedLlama(self.lm, codes, positions, compiled, books))
        null, embedded = self.condition.null, self.embedded
        if books == 1:
            return decode(llama, token_B, uniform_BU, drawing, null=null, given_BN=given_BN, embedded=embedded)
        uniform_BN = self.arranged(uniform_BU).flatten(1)
        flat_BN = None if given_BN is None else self.arranged(given_BN).flatten(1)
        code_BN = decode(llama, token_B, uniform_BN, drawing, null=null, given_BN=flat_BN, embedded=embedded)
        return self.in_a_row(code_BN.unflatten(1, (-1, books)))
