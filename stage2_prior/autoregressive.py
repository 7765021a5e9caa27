"""The autoregressive prior: a stock Llama causal LM over [class token, code 1, …, code N] in raster order.

p(code_N | class) = Π_n p(code_n | class, code_<n). (Esser et al. 2021, eq. 10; Sun et al. 2024 use a Llama)
Shapes: B batch, N positions (h·w codes), T = N tokens read, K codes, V vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stage2_prior.codes import CodeSource
from stage2_prior.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from stage2_prior.config import PriorModelConfig
    from stage2_prior.decoding import Drawing

DESCRIPTION = "prior.json"
"""The file beside the stock weights that says what the tokens mean and which tokenizer's codes they are."""


class AutoregressivePrior(nn.Module):
    """A stock Llama and what its tokens mean. `lm` is a plain transformers model; all parameters are its own."""

    kind = "autoregressive"

    def __init__(self, lm: LlamaForCausalLM, vocabulary: Vocabulary, source: CodeSource):
        super().__init__()
        self.lm = lm
        self.vocabulary = vocabulary
        self.source = source
        self.class_dropout = self.code_noise = 0.0

    @classmethod
    def build(cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource) -> AutoregressivePrior:
        """A prior with fresh weights, from torch's generator."""
        from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

        positions = source.positions
        settings = LlamaConfig(
            vocab_size=vocabulary.size,
            hidden_size=config.width,
            intermediate_size=config.inner_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads or config.heads,
            max_position_embeddings=positions + 1,
            tie_word_embeddings=config.tied,
            attention_dropout=config.attention_dropout,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            bos_token_id=None,
            eos_token_id=None,
        )
        prior = cls(LlamaForCausalLM(settings), vocabulary, source)
        prior.class_dropout, prior.code_noise = config.class_dropout, config.code_noise
        prior.lm.generation_config = GenerationConfig(
            suppress_tokens=vocabulary.special_tokens(),
            max_new_tokens=positions,
            min_new_tokens=positions,
            bos_token_id=None,
            eos_token_id=None,
        )
        return prior

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary, source: CodeSource) -> AutoregressivePrior:
        """The stock model in a folder, float32, on the CPU, in evaluation mode."""
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        lm: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        return cls(lm, vocabulary, source).eval()

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

    @property
    def draws(self) -> int:
        """Random numbers that one picture's codes take."""
        return self.source.positions

    def sample(self, token_B: Tensor, uniform_BN: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN for class (or null) tokens; see `stage2_prior.decoding.decode`."""
        from stage2_prior.decoding import CachedLlama, decode

        llama = CachedLlama(self.lm, self.vocabulary.codebook_size, self.source.positions)
        return decode(llama, token_B, uniform_BN, drawing, null=self.vocabulary.null, given_BN=given_BN)

    def save_pretrained(self, folder: str | Path, **notes: Any) -> None:
        """Write a folder that plain `transformers.AutoModelForCausalLM.from_pretrained` loads, and prior.json.

        `notes` (JSON values) are added to prior.json.
        """
        from transformers.utils import logging

        folder = Path(folder)
        logging.disable_progress_bar()
        self.lm.save_pretrained(folder)
        described = {
            "format": 1,
            "kind": self.kind,
            "vocabulary": self.vocabulary.to_dict(),
            "codes": self.source.to_dict(),
            **notes,
        }
        (folder / DESCRIPTION).write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n")
