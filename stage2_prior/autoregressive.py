"""The autoregressive prior: a stock Llama causal LM over [class token, code 1, …, code N] in raster order.

p(code_N | class) = Π_n p(code_n | class, code_<n). (Esser et al. 2021, eq. 10; Sun et al. 2024 use a Llama)
Shapes: B batch, N positions (h·w codes), T = N tokens read, K codes, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stage2_prior.codes import CodeSource
from stage2_prior.prior import Prior
from stage2_prior.vocabulary import Vocabulary

if TYPE_CHECKING:
    from stage2_prior.config import PriorModelConfig
    from stage2_prior.decoding import CachedLlama
    from stage2_prior.drawing import Drawing


class AutoregressivePrior(Prior):
    """Codes one after the other, each given the class and all before it."""

    kind = "autoregressive"
    stock = "AutoModelForCausalLM"
    code_noise: float = 0.0
    """Share of the codes read in training that are replaced by random ones."""
    _decoder: tuple[list[tuple[int, int]], CachedLlama] | None = None
    """State of the weights, and they as a CachedLlama."""

    @classmethod
    def build(cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource) -> AutoregressivePrior:
        """A prior with fresh weights, from torch's generator."""
        from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

        settings = LlamaConfig(
            vocab_size=vocabulary.size,
            hidden_size=config.width,
            intermediate_size=config.inner_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads or config.heads,
            max_position_embeddings=source.positions + 1,
            tie_word_embeddings=config.tied,
            attention_dropout=config.attention_dropout,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            bos_token_id=None,
            eos_token_id=None,
        )
        prior = cls(LlamaForCausalLM(settings), vocabulary, source)
        prior.class_dropout, prior.code_noise = config.class_dropout, config.code_noise
        # So that plain `generate` from a class token gives one grid, of codes only.
        prior.lm.generation_config = GenerationConfig(
            suppress_tokens=vocabulary.special_tokens(),
            max_new_tokens=source.positions,
            min_new_tokens=source.positions,
            bos_token_id=None,
            eos_token_id=None,
        )
        return prior

    def logits(self, token_BT: Tensor) -> Tensor:
        """Logits of the next code after each token, logits_BTK float32; class tokens can't be drawn, so have none."""
        logits_BTV = self.lm(input_ids=token_BT, use_cache=False).logits
        return logits_BTV[..., : self.vocabulary.codebook_size].float()

    def nats(self, code_BN: Tensor, token_B: Tensor, read_BN: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of each code in nats, nats_BN float32, given the class (or null) tokens.

        `read_BN` stands in for the codes before the one predicted (training with noise); default `code_BN` itself.
        """
        token_BT = torch.cat([token_B[:, None], (code_BN if read_BN is None else read_BN)[:, :-1]], dim=1)
        logits_BKN = self.logits(token_BT).transpose(1, 2)
        return nn.functional.cross_entropy(logits_BKN, code_BN, reduction="none")

    def forward(self, code_BN: Tensor, label_B: Tensor) -> Tensor:
        """The training loss, mean nats per code; classes are dropped and codes disturbed by torch's generator."""
        token_B = self.vocabulary.drop(self.vocabulary.class_tokens(label_B), self.class_dropout)
        read_BN = code_BN
        if self.code_noise > 0:
            other_BN = torch.randint_like(code_BN, self.vocabulary.codebook_size)
            read_BN = torch.where(torch.rand(code_BN.shape, device=code_BN.device) < self.code_noise, other_BN, code_BN)
        return self.nats(code_BN, token_B, read_BN).mean()

    def draws(self, drawing: Drawing) -> int:
        """One random number for each code."""
        return self.source.positions

    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN for class (or null) tokens; see `stage2_prior.decoding.decode`."""
        from stage2_prior.decoding import decode

        return decode(self._cached(), token_B, uniform_BU, drawing, null=self.vocabulary.null, given_BN=given_BN)

    def _cached(self) -> CachedLlama:
        """The weights ready for decoding, made anew when they have changed."""
        from stage2_prior.decoding import CachedLlama

        state = [(weight.data_ptr(), weight._version) for weight in self.lm.parameters()]
        if self._decoder is None or self._decoder[0] != state:
            llama = CachedLlama(self.lm, self.vocabulary.codebook_size, self.source.positions)
            self._decoder = (state, llama)
        return self._decoder[1]
