"""The unified prior: a stock causal language model over one vocabulary of text and codes.

A row packs documents of text tokens and spans of codes; each token is predicted from those before it in its document.
Each kind of token (text, and the codes of each block) has a mean loss of its own over the global batch, and the
training loss is their weighted sum:

    loss = Σ_k w_k / r_k · (1 / n_k) Σ_{t of kind k} -ln p(token_t | tokens before it in its document)

with r_k = 1, or with model.normalise_losses the running root mean square of kind k's mean (Hafner et al. 2025, Dreamer
4).

Shapes: B rows, T tokens of a row, K kinds, X documents, D width, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import GenerationConfig

from launch.command.cli import UserError
from launch.files.places import without_places
from launch.ranks.transfer import to_device
from stage1_tokenizer.layers.precision import without_autocast
from stage2_prior.codes.unified import Block, UnifiedVocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.base import Prior
from stage2_prior.priors.continuing import draw_tokens
from stage2_prior.priors.documents import Documents
from stage2_prior.priors.llama import through_layers
from stage2_prior.priors.of_block import BlockPrior
from stage2_prior.priors.predicted import Predicted
from stage2_prior.priors.stock import Work, llama_settings, stock_model, with_head
from stage2_prior.priors.text_model import LowRank, begun_from
from stage2_prior.priors.tokenizer_files import read_text_tokenizer, write_tokenizer

NO_LOSS = -1
"""The kind of a token that bears no loss."""


@dataclass(frozen=True)
class Rows:
    """What the prior reads at once."""

    positions: int
    """T."""

    def __str__(self) -> str:
        """The rows in words."""
        return f"rows of {self.positions} tokens"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return {"tokens": self.positions}


class Balance:
    """The weight of each kind's mean loss, and the running mean squares that normalise them.

    The means begin at the square of a uniform guess's loss and are of earlier steps, so that a step needs no second
    pass over its parts. A kind that a batch has no tokens of keeps its own.
    """

    decay = 0.99

    def __init__(self, kinds: Mapping[str, int], weights: Mapping[str, float], normalised: bool):
        """`kinds` are the kinds' numbers of tokens, by name."""
        self.names, self.normalised = tuple(kinds), normalised
        self.weight_K = torch.tensor([weights.get(name, 1.0) for name in kinds])
        self.square_K = torch.tensor([math.log(max(size, 2)) ** 2 for size in kinds.values()])

    def weights(self, count_K: Tensor) -> Tensor:
        """What each token's loss of a kind is multiplied by; count_K are the global batch's tokens."""
        self.weight_K, self.square_K = (to_device(x_K, count_K.device) for x_K in (self.weight_K, self.square_K))
        weight_K = self.weight_K / self.square_K.sqrt() if self.normalised else self.weight_K
        return weight_K / count_K.clamp(min=1)

    def update(self, mean_K: Tensor, count_K: Tensor) -> None:
        """Take in the global batch's mean losses."""
        new_K = torch.lerp(mean_K.square(), self.square_K, self.decay)
        self.square_K = torch.where((count_K > 0) & mean_K.isfinite(), new_K, self.square_K)

    def state_dict(self) -> dict[str, Any]:
        """The running means, for a checkpoint."""
        return {"square_K": self.square_K.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.square_K = state["square_K"].to(self.square_K.device)


class UnifiedPrior(Prior):
    """A causal language model of text and codes; `over` gives the prior over one block's codes given a text."""

    kind = "unified"
    stock = "AutoModelForCausalLM"
    forms = ()
    in_order = True

    def __init__(self, lm: Any, vocabulary: UnifiedVocabulary, rows: Rows):
        super().__init__(lm, vocabulary, rows)  # type: ignore[arg-type]
        self.vocabulary: UnifiedVocabulary  # type: ignore[assignment]
        self.balance = Balance(vocabulary.kinds, {}, normalised=False)
        self.low_rank: LowRank | None = None
        self.init_text: str | None = None
        """The text model that it was begun from."""

    @classmethod
    def fresh(
        cls, config: PriorModelConfig, vocabulary: UnifiedVocabulary, positions: int, init_text: str | None = None
    ) -> Self:
        """A prior with fresh weights (from torch's generator), or begun from those of a text model, for rows of T."""
        if init_text is None:
            special = {"bos_token_id": vocabulary.begin, "eos_token_id": vocabulary.end}
            lm = with_head(llama_settings(config, vocabulary.size, positions, **special))
        else:
            lm = begun_from(init_text, config, vocabulary.text, vocabulary.size, positions)
        prior = cls(lm, vocabulary, Rows(positions))
        prior.init_text = None if init_text is None else without_places(init_text)
        prior.set_training(config)
        if config.lora_rank:
            prior.low_rank = LowRank(lm, config.lora_rank)
        return prior

    def set_training(self, config: PriorModelConfig) -> None:
        """Take over the settings that matter in training only."""
        super().set_training(config)
        strange = sorted(set(config.loss_weights) - set(self.vocabulary.kinds))
        if strange:
            kinds = ", ".join(self.vocabulary.kinds)
            raise UserError(
                f"model.loss_weights has {strange[0]}, but the kinds of tokens are {kinds}: give one of them"
            )
        self.balance = Balance(self.vocabulary.kinds, config.loss_weights, config.normalise_losses)

    @property
    def described(self) -> dict[str, Any]:
        """The text model that it was begun from, if there is one."""
        return {} if self.init_text is None else {"init_text": self.init_text}

    def work(self) -> list[Work]:
        """Each token attends to half of its row, at most."""
        return [Work(self.lm, 1.0, self.source.positions / 2)]

    def _next(self, token_BT: Tensor, document_BT: Tensor, bound_X: Tensor | None = None) -> Predicted:
        """What is predicted of the tokens after token_BT."""
        documents = Documents(document_BT, bound_X)
        y_BTD = through_layers(self.lm.model, self.lm.model.embed_tokens(token_BT), documents=documents)
        return Predicted(y_BTD, self.lm.lm_head, self.vocabulary.size)

    def losses(
        self, token_BT: Tensor, document_BT: Tensor, next_BT: Tensor, bound_X: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """loss_BT and nats_BT (code_losses) of the tokens next_BT that come after token_BT."""
        return self._next(token_BT, document_BT, bound_X).losses(next_BT, self.label_smoothing, self.z_loss)

    def forward(  # type: ignore[override]
        self,
        token_BT: Tensor,
        document_BT: Tensor,
        kind_BT: Tensor,
        weight_K: Tensor,
        bound_X: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The sum of all tokens' losses, each times its kind's weight, and each kind's sum of nats, nats_K.

        kind_BT is NO_LOSS where a token bears no loss, as a document's first never does. `bound_X` as of Documents.
        """
        of_BT = after(document_BT, kind_BT)
        loss_BT, nats_BT = self.losses(token_BT, document_BT, token_BT.roll(-1, 1), bound_X)
        of_KBT = of_BT == torch.arange(len(weight_K), device=of_BT.device).view(-1, 1, 1)
        loss_K, nats_K = ((x_BT * of_KBT).sum((1, 2)) for x_BT in (loss_BT, nats_BT))
        return (loss_K * weight_K).sum(), nats_K

    def score(self, token_BT: Tensor, document_BT: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each token in nats, given those before it in its document, and whether it is the likeliest one.

        nats_BT and right_BT are float32, 0 for a document's first token; nothing is random.
        """
        nats_BT, right_BT = self._next(token_BT, document_BT).figures(token_BT.roll(-1, 1))
        inside_BT = (document_BT[:, 1:] == document_BT[:, :-1]).float()
        first_B1 = torch.zeros_like(nats_BT[:, :1])
        nats, right = (torch.cat([first_B1, x_BT[:, :-1] * inside_BT], dim=1) for x_BT in (nats_BT, right_BT))
        return nats, right

    def over(self, block: Block) -> BlockPrior:
        """The prior over a block's codes given a text, with these weights; in evaluation mode."""
        prior = BlockPrior(self.lm, self.vocabulary, block, self.source.positions)
        return prior.eval()

    def over_codes_of(self, fingerprint: str, key: str, path: str) -> BlockPrior:
        """`over` the codes of the tokenizer with this fingerprint, the value `path` of `key`; UserError without any."""
        for block in self.vocabulary.blocks:
            if block.source.tokenizer == fingerprint:
                return self.over(block)
        known = (
            ", ".join(f"{block.source.tokenizer[:12]}… ({block.name})" for block in self.vocabulary.blocks) or "none"
        )
        raise UserError(
            f"{key}={path} has the fingerprint {fingerprint[:12]}…, but the prior is over codes of {known}: give a "
            "tokenizer that it was trained with"
        )

    @without_autocast
    def continued(
        self, uniform_BU: Tensor, prompts: Sequence[Sequence[int]], drawing: Drawing, *, media: bool = False
    ) -> list[list[int]]:
        """What follows each prompt (ids that begin with <s>): `draw_tokens`."""
        return draw_tokens(self.lm, self.vocabulary, prompts, uniform_BU, drawing, media=media)

    def save_pretrained(self, folder: str | Path, **notes: Any) -> None:
        """As of any prior, with tokenizer.json; low-rank changes are added to the matrices, for good."""
        if self.low_rank is not None:
            self.lm, self.low_rank = self.low_rank.merged(), None
        vocabulary = self.vocabulary
        self.lm.generation_config = GenerationConfig(
            bos_token_id=vocabulary.begin,
            eos_token_id=vocabulary.end,
            pad_token_id=vocabulary.end,
            max_length=self.source.positions,
        )
        super().save_pretrained(folder, **notes)
        write_tokenizer(vocabulary, Path(folder))

    @classmethod
    def opened(cls, folder: Path, described: Mapping[str, Any]) -> Self:
        """The prior of an export, float32, on the CPU, in evaluation mode; `described` is its prior.json."""
        saved = described["vocabulary"]
        vocabulary = UnifiedVocabulary.from_dict(saved, read_text_tokenizer(folder, int(saved["text_tokens"])))
        rows = Rows(int(described["codes"]["tokens"]))
        prior = cls(stock_model(cls.stock, folder), vocabulary, rows).eval()
        prior.init_text = described.get("init_text")
        return prior


def after(document_BT: Tensor, kind_BT: Tensor) -> Tensor:
    """The kind of the token after each one, of_BT; NO_LOSS where that is of another document."""
    same_BT = document_BT[:, 1:] == document_BT[:, :-1]
    last_B1 = torch.full_like(kind_BT[:, :1], NO_LOSS)
    return torch.cat([torch.where(same_BT, kind_BT[:, 1:], NO_LOSS), last_B1], dim=1)
