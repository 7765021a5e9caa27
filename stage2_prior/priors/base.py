"""What every kind of prior is: a stock transformers model, what its tokens mean, and whose codes they are.

Shapes: B batch, N codes of a picture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource, Form
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.priors.sample_noise import Chance
from stage2_prior.priors.text_prefix import FOLDER as TEXT
from stage2_prior.priors.text_prefix import NONE, TextPrefix

if TYPE_CHECKING:
    from data.codes.batches import CodeBatch
    from stage1_tokenizer.quantizers import Quantizer
    from stage2_prior.config.drawing import Drawing
    from stage2_prior.config.model import PriorModelConfig

DESCRIPTION = "prior.json"
"""The file beside the stock weights that says what the tokens mean and which tokenizer's codes they are."""

Kind = TypeVar("Kind", bound="Prior")
Ready = TypeVar("Ready")


@dataclass(frozen=True)
class Work:
    """What a transformer does for each code of a picture."""

    transformer: Any
    """A stock model."""
    tokens: float
    """How many of its tokens there are for each code."""
    attended: float
    """How many tokens each attends to on average."""
    idle: int = 0
    """Weights of its output layer that a token is not multiplied by."""


class Prior(nn.Module):
    """A distribution over a picture's codes given a class, nothing or a text.

    What it hears of them is token_B, a class (or null) token for each picture; of texts it is token_BL
    (stage2_prior.priors.text_prefix). `lm` is a plain transformers model, for most kinds with all the parameters;
    `parts` tells of all.
    """

    kind: ClassVar[str]
    """Its name in `model.kind` and prior.json."""
    stock: ClassVar[str]
    """The transformers class that loads `lm`."""
    form: ClassVar[Form] = "grid"
    """The form of codes that it is for (CodeSource.form)."""
    in_order: ClassVar[bool] = False
    """Whether a code hears those of places before its own only, row by row."""
    one_by_one: ClassVar[bool] = False
    """Whether codes are drawn by steps of one token each, which can be compiled."""
    compiled_steps: bool = False
    """Whether sampling compiles such steps; on GPUs."""
    code_noise: float = 0.0
    """Share of the codes read in training that are replaced by random ones."""
    class_dropout: float = 0.0
    """Share of the training samples whose class becomes the null token, or whose text none."""
    label_smoothing: float = 0.0
    """Share of the training target spread evenly over all codes."""
    z_loss: float = 0.0
    """Weight of the squared log-sum-exp of the logits in training."""

    def __init__(self, lm: Any, vocabulary: Vocabulary, source: CodeSource):
        super().__init__()
        self.lm = lm
        self.vocabulary = vocabulary
        self.source = source
        self.text: TextPrefix | None = None
        """What it hears of texts, where they are its condition."""
        self.chance = Chance()
        """What is random in training, dropout apart."""
        self._ready: tuple[tuple[bool, list[tuple[int, int]]], Any] | None = None

    @classmethod
    def build(
        cls: type[Kind],
        config: PriorModelConfig,
        vocabulary: Vocabulary,
        source: CodeSource,
        quantizer: Quantizer | None = None,
    ) -> Kind:
        """A prior with fresh weights, from torch's generator; `quantizer` is the tokenizer's, which some kinds need."""
        raise NotImplementedError

    def set_training(self, config: PriorModelConfig) -> None:
        """Take up what is for training only."""
        self.class_dropout, self.code_noise = config.class_dropout, config.code_noise
        self.label_smoothing, self.z_loss = config.label_smoothing, config.z_loss

    @property
    def parts(self) -> dict[str, nn.Module]:
        """All that is trained and exported, by its folder in an export ("" for the export's own)."""
        return {"": self.lm} | ({TEXT: self.text} if self.text is not None else {})

    @property
    def prefix(self) -> int:
        """Tokens that a text takes before the codes."""
        return 0 if self.text is None else self.text.config.tokens

    @property
    def null(self) -> int:
        """What stands for no condition, and guidance compares with: the null token; of texts that there is no token."""
        return self.vocabulary.null if self.text is None else NONE

    def asked(self, batch: CodeBatch) -> Tensor:
        """What the codes of a batch depend on: its labels, label_B; or its captions, token_BL."""
        return batch.label_B if self.text is None else self.text.tokens(batch.captions)

    def tokens(self, asked_B: Tensor) -> Tensor:
        """What it hears of labels, token_B, or of what `asked` gave, token_BL. No text is heard of labels."""
        if self.text is None:
            return self.vocabulary.class_tokens(asked_B)
        return asked_B if asked_B.ndim == 2 else torch.full_like(asked_B, NONE)[:, None].repeat(1, self.prefix)

    def lead(self, token_B: Tensor) -> Tensor:
        """Embeddings of what stands before the codes, x_BTD: the class token, or a text's prefix and the null token."""
        embed = self.lm.get_input_embeddings()
        if self.text is None:
            return embed(token_B)[:, None]
        start_B1 = torch.full_like(token_B[:, :1], self.vocabulary.null)
        x_BLD, start_B1D = self.text(token_B), embed(start_B1)
        return torch.cat([x_BLD.to(start_B1D.dtype), start_B1D], dim=1)

    @property
    def transformers(self) -> list[nn.Module]:
        """The stock models."""
        return [self.lm]

    def work(self) -> list[Work]:
        """What its transformers do for each code."""
        return [Work(self.lm, 1.0, self.source.positions)]

    def text_work(self) -> list[Work]:
        """What an encoder of texts that is trained along does for each code."""
        if self.text is None or self.text.bytes is None:
            return []
        return [Work(self.text.bytes, self.prefix / self.source.positions, self.prefix)]

    def ready(self, make: Callable[[], Ready]) -> Ready:
        """The weights as `make` lays them out for sampling, made anew when they or `compiled_steps` have changed."""
        state = (self.compiled_steps, [(weight.data_ptr(), weight._version) for weight in self.parameters()])
        if self._ready is None or self._ready[0] != state:
            self._ready = (state, make())
        ready: Ready = self._ready[1]
        return ready

    def forward(self, code_BN: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
        """The training loss, and mean nats per code predicted (no gradients); what is random comes from `chance`.

        label_B is what `asked` gives of a batch.
        Both are means over the samples at hand: weighed by their numbers, those of parts of a batch give the batch's.
        """
        raise NotImplementedError

    def dropped_tokens(self, label_B: Tensor) -> Tensor:
        """What it hears of the labels (or texts), token_B, for some samples replaced by what is null by `chance`."""
        token_B = self.tokens(label_B)
        draw_B = self.chance.uniform(len(label_B), device=label_B.device) if self.class_dropout > 0 else None
        if self.text is not None:
            return token_B if draw_B is None else token_B.masked_fill((draw_B < self.class_dropout)[:, None], NONE)
        return self.vocabulary.drop(token_B, self.class_dropout, draw_B)

    def disturbed(self, code_BN: Tensor) -> Tensor:
        """The codes as they are read in training: by `chance` a share `code_noise` of them is replaced."""
        if self.code_noise <= 0:
            return code_BN
        which_BN, other_BN = self.chance.uniform(len(code_BN), 2, code_BN.shape[1], device=code_BN.device).unbind(1)
        other_BN = (other_BN * self.vocabulary.codebook_size).long().clamp(max=self.vocabulary.codebook_size - 1)
        return torch.where(which_BN < self.code_noise, other_BN, code_BN)

    def set_progress(self, done: float) -> None:
        """Tell the share of the training steps that are done, for what changes during training."""

    def nats(self, code_BN: Tensor, token_B: Tensor) -> Tensor:
        """-ln p of the codes (or a bound from above), nats_BN float32, given the class (or null) tokens; not random."""
        return self.judge(code_BN, token_B)[0]

    def judge(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """What `nats` says, and whether (0, 1 or a share) the likeliest code is the right one, right_BN float32."""
        raise NotImplementedError

    def draws(self, drawing: Drawing) -> int:
        """Random numbers that one picture's codes take."""
        raise NotImplementedError

    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN for class (or null) tokens; uniform_BU in [0, 1), U = draws(drawing), is all that is random.

        `given_BN` fixes the codes where it isn't negative.
        """
        raise NotImplementedError

    @classmethod
    def load(cls: type[Kind], folder: Path, vocabulary: Vocabulary, source: CodeSource) -> Kind:
        """The stock model in a folder, float32, on the CPU, in evaluation mode."""
        return cls(stock_model(cls.stock, folder), vocabulary, source).eval()

    def save_pretrained(self, folder: str | Path, **notes: Any) -> None:
        """Write a folder that plain `transformers` loads (`<stock>.from_pretrained`), and prior.json.

        `notes` (JSON values) are added to prior.json.
        """
        from transformers.utils import logging

        folder = Path(folder)
        logging.disable_progress_bar()
        for name, part in self.parts.items():
            part.save_pretrained(folder / name)  # type: ignore[operator]
        described = {
            "format": 1,
            "kind": self.kind,
            "vocabulary": self.vocabulary.to_dict(),
            "codes": self.source.to_dict(),
            **({"condition": "text"} if self.text is not None else {}),
            **notes,
        }
        (folder / DESCRIPTION).write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n")


def stock_model(name: str, folder: Path) -> Any:
    """What the transformers class `name` loads from a folder, float32, on the CPU; of safetensors, never of a pickle.

    Raises UserError where that can't be loaded.
    """
    import transformers
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    kept: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
    try:
        return getattr(transformers, name).from_pretrained(folder, **kept)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{folder} holds no weights of {name} in safetensors ({reason}): export the prior again"
        ) from error


def weights_hash(prior: Prior) -> str:
    """sha256 over the names and values of a prior's weights, which says whether figures are its own."""
    found = hashlib.sha256()
    weights = {
        f"{folder}/{name}".lstrip("/"): weight
        for folder, part in prior.parts.items()
        for name, weight in part.named_parameters()
    }
    for name, weight in sorted(weights.items()):
        found.update(name.encode())
        found.update(weight.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()
