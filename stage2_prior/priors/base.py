"""What every kind of prior is: a stock transformers model, what its tokens mean, and whose codes they are.

Shapes: B batch, N codes of a picture, K codes, L tokens of a text, H W pixels.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.axes import touched
from stage2_prior.codes.source import CodeSource, Form
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.condition import ClassCondition, Condition
from stage2_prior.priors.predicted import Head, Predicted, PredictedByLevel, PredictedLogits
from stage2_prior.priors.sample_noise import SampleNoise
from stage2_prior.priors.stock import Work, needs_vqloom, stock_model

DESCRIPTION = "prior.json"
"""The file beside the stock weights that says what the tokens mean and which tokenizer's codes they are."""

Weights = TypeVar("Weights")


class Prior(nn.Module):
    """A distribution over a picture's codes given its condition (stage2_prior.priors.condition).

    `lm` is a stock transformers model; of most kinds it holds all parameters, of all kinds `exported` does. A kind of
    prior is a subclass, listed in stage2_prior.priors.build. token_B stands for conditioning tokens throughout, also
    where they are a text's, token_BL. Weights may be of any float type (`to`); logits and losses are float32.
    """

    kind: ClassVar[str]
    """Its name in `model.kind` and prior.json."""
    head: ClassVar[str] = "softmax"
    """How it predicts a code, as in `model.head`."""
    stock: ClassVar[str]
    """The transformers class that loads `lm`."""
    loaders: ClassVar[dict[str, Callable[[Path], nn.Module]]] = {}
    """Its modules besides `lm`, by attribute and folder in an export, and what loads each."""
    forms: ClassVar[tuple[Form, ...]] = ("grid",)
    """The forms of codes that it models (CodeSource.form)."""
    assumed_codes: ClassVar[dict[str, Any]] = {}
    """Fields of the CodeSource that a dry run assumes where there are no codes yet."""
    mask_token: ClassVar[bool] = False
    """Whether its vocabulary has a mask token."""
    in_order: ClassVar[bool] = False
    """Whether a code depends only on codes of earlier places, row by row, so that no hole may have kept codes behind
    it."""
    one_by_one: ClassVar[bool] = False
    """Whether codes are drawn in steps of one token, which can be compiled."""
    forward_methods: ClassVar[tuple[str, ...]] = ("score",)
    """Methods besides forward that use the weights: a strategy that shards them gathers them for these too."""
    compiled_steps: bool = False
    """Whether sampling compiles the pieces of such steps; for GPUs."""
    code_noise: float = 0.0
    """Share of the codes read in training that are replaced by random ones."""
    class_dropout: float = 0.0
    """Share of the training samples whose condition is dropped."""
    label_smoothing: float = 0.0
    """Share of the training target spread evenly over all codes."""
    z_loss: float = 0.0
    """Weight of the squared log-sum-exp of the logits in training."""

    def __init__(self, lm: Any, vocabulary: Vocabulary, source: CodeSource, **modules: nn.Module):
        """`modules` are those that `loaders` names."""
        super().__init__()
        self.lm = lm
        for name, module in modules.items():
            self.add_module(name, module)
        for transformer in self.children():
            if isinstance(transformer, PreTrainedModel):
                Head.of(transformer.get_output_embeddings())
        self.vocabulary = vocabulary
        self.source = source
        self.condition: Condition = ClassCondition(vocabulary)
        """What the codes depend on."""
        self.sample_noise = SampleNoise()
        """What is random in training besides dropout."""
        self._laid_out: tuple[tuple[bool, list[tuple[int, int]]], Any] | None = None

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> Self:
        """A prior with fresh weights, from torch's generator; `quantizer` is the tokenizer's, which some kinds need."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As of any module, but rotary frequencies stay float32: in bf16, angles would be wrong by up to 1 in 256."""
        kept = [
            (module, name, frequencies)
            for module in self.modules()
            for name, frequencies in module.named_buffers(recurse=False)
            if name.endswith("inv_freq")
        ]
        super()._apply(fn, recurse)
        for module, name, frequencies in kept:
            moved = getattr(module, name)
            if moved.dtype != frequencies.dtype:
                setattr(module, name, frequencies.to(moved.device))
        return self

    def set_condition(self, condition: Condition) -> None:
        """Let the codes depend on `condition`, whose modules become the prior's."""
        self.condition = condition
        for name, module in condition.modules.items():
            self.add_module(name, module)

    def set_training(self, config: PriorModelConfig) -> None:
        """Take over the settings that matter in training only."""
        self.class_dropout, self.code_noise = config.class_dropout, config.code_noise
        self.label_smoothing, self.z_loss = config.label_smoothing, config.z_loss

    def set_progress(self, done: float) -> None:
        """Set the share of the training steps that are done, for what changes during training."""

    @property
    def exported(self) -> dict[str, nn.Module]:
        """All that is trained and exported, by its folder in an export ("" for the export's own)."""
        return {"": self.lm, **{name: getattr(self, name) for name in self.loaders}, **self.condition.modules}

    @property
    def described(self) -> dict[str, Any]:
        """What its kind adds to prior.json, which `load` reads there."""
        return {}

    @property
    def transformers(self) -> list[nn.Module]:
        """The stock models."""
        return [module for module in self.exported.values() if isinstance(module, PreTrainedModel)]

    def work(self) -> list[Work]:
        """What its transformers do for each code."""
        return [Work(self.lm, 1.0, self.source.positions)]

    @classmethod
    def layers_per_code(cls, config: PriorModelConfig, source: CodeSource) -> float:
        """Transformer layers that each code passes through, for a dry run's estimate of memory."""
        return config.layers

    def usage(self, name: str) -> str:
        """How the export in the folder `name` is used without vqloom, as Markdown for the model card."""
        why = "a text is a prefix of embeddings, made by what lies in `text/`"
        return needs_vqloom(why, f'`{self.stock}.from_pretrained("{name}")` loads the one over codes')

    def over_codes_of(self, fingerprint: str, key: str, path: str) -> "Prior":
        """The prior over codes of the tokenizer with this fingerprint, the value `path` of `key`; UserError without."""
        self.source.must_be_of(fingerprint, key, path)
        return self

    def embedded(self, token_B: Tensor) -> Tensor:
        """The embeddings in front of the codes, x_BTD."""
        return self.condition.embedded(token_B, self.lm.get_input_embeddings())

    def dropped(self, token_B: Tensor) -> Tensor:
        """The conditioning tokens, replaced by null for a share `class_dropout` of the samples.

        (Ho and Salimans 2022, algorithm 1)
        """
        if self.class_dropout <= 0:
            return token_B
        drop_B = self.sample_noise.uniform(len(token_B), device=token_B.device) < self.class_dropout
        return token_B.masked_fill(drop_B.view(-1, *[1] * (token_B.ndim - 1)), self.condition.null)

    def noisy(self, code_BN: Tensor) -> Tensor:
        """The codes as they are read in training: a share `code_noise` of them replaced by random ones."""
        if self.code_noise <= 0:
            return code_BN
        uniform_B2N = self.sample_noise.uniform(len(code_BN), 2, code_BN.shape[1], device=code_BN.device)
        which_BN, other_BN = uniform_B2N.unbind(1)
        other_BN = (other_BN * self.vocabulary.codebook_size).long().clamp(max=self.vocabulary.codebook_size - 1)
        return torch.where(which_BN < self.code_noise, other_BN, code_BN)

    def predicted(self, code_BN: Tensor, token_B: Tensor) -> Predicted | PredictedLogits | PredictedByLevel:
        """What is predicted of every code, given the condition and the codes that it depends on; of one's `logits`.

        A prior whose head is a linear layer returns its inputs, so that many logits need not exist at once.
        """
        return PredictedLogits(self.logits(code_BN, token_B))

    def logits(self, code_BN: Tensor, token_B: Tensor) -> Tensor:
        """Logits of every code, logits_BNK float32; every kind has this or `predicted`."""
        if type(self).predicted is Prior.predicted:
            raise NotImplementedError
        return self.predicted(code_BN, token_B).logits()

    def losses(self, read_BN: Tensor, token_B: Tensor, code_BN: Tensor) -> tuple[Tensor, Tensor]:
        """loss_BN and nats_BN (code_losses) of the codes, where read_BN are read; nothing but dropout is random.

        This is what `compile` compiles.
        """
        predicted = self.predicted(read_BN, token_B)
        return predicted.losses(self.arranged(code_BN), self.label_smoothing, self.z_loss)

    def forward(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """The training loss, and the mean nats per predicted code (no gradients); random by `sample_noise` alone.

        Both are means over the samples given: those of micro-batches, weighted by their sizes, add up to the batch's.
        By default they come from `losses` of noisy codes.
        """
        token_B, read_BN = self.dropped(token_B), self.noisy(code_BN)
        loss_BN, nats_BN = self.losses(read_BN, token_B, code_BN)
        return loss_BN.mean(), nats_BN.mean()

    def arranged(self, code_BN: Tensor) -> Tensor:
        """The codes in the order of `logits`; those of several codebooks by places, code_BPG."""
        books = self.source.codebooks
        return code_BN if books == 1 else code_BN.unflatten(1, (books, -1)).transpose(1, 2)

    def score(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code in nats (or an upper bound), and whether (0, 1 or a share) it is the likeliest one.

        nats_BN and right_BN are float32; nothing is random. By default they come from `predicted`.
        """
        nats, right = self.predicted(code_BN, token_B).figures(self.arranged(code_BN))
        return self.in_a_row(nats), self.in_a_row(right)

    def in_a_row(self, x: Tensor) -> Tensor:
        """What is `arranged`, x_BN or x_BPG, in the order of the codes, x_BN."""
        return x if x.ndim == 2 else x.transpose(1, 2).flatten(1)

    def draws(self, drawing: Drawing) -> int:
        """Random numbers that one picture takes: by default one for each code."""
        return self.source.positions

    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN; uniform_BU in [0, 1), U = draws(drawing), is all its randomness.

        `given_BN` fixes the codes where it isn't negative.
        """
        raise NotImplementedError

    def open_codes(self, hole_HW: Tensor) -> Tensor:
        """Which codes are drawn for a hole, open_N bool in the order of the flattened codes: those it touches.

        Of sounds the hole is hole_T, of videos hole_THW.
        """
        return touched(hole_HW, self.source.grid).flatten().repeat(self.source.codebooks)

    def laid_out(self, make: Callable[[], Weights]) -> Weights:
        """The weights as `make` lays them out for sampling, made again when they or `compiled_steps` have changed."""
        state = (self.compiled_steps, [(weight.data_ptr(), weight._version) for weight in self.parameters()])
        if self._laid_out is None or self._laid_out[0] != state:
            self._laid_out = (state, make())
        return self._laid_out[1]

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary, source: CodeSource) -> Self:
        """The prior of an export, float32, on the CPU, in evaluation mode."""
        modules = {name: load(folder / name) for name, load in cls.loaders.items()}
        return cls(stock_model(cls.stock, folder), vocabulary, source, **modules).eval()

    def save_pretrained(self, folder: str | Path, **notes: Any) -> None:
        """Write a folder that plain `transformers` loads (`<stock>.from_pretrained`), and prior.json.

        `notes` (JSON values) are added to prior.json.
        """
        folder = Path(folder)
        logging.disable_progress_bar()
        for name, module in self.exported.items():
            module.save_pretrained(folder / name)  # type: ignore[operator]
        described = {
            "format": 1,
            "kind": self.kind,
            "vocabulary": self.vocabulary.to_dict(),
            "codes": self.source.to_dict(),
            **self.described,
            **self.condition.described,
            **notes,
        }
        (folder / DESCRIPTION).write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n")


def weights_hash(prior: Prior) -> str:
    """sha256 over the names and values of a prior's weights: figures belong to the prior with the same hash."""
    digest = hashlib.sha256()
    weights = {
        f"{folder}/{name}".lstrip("/"): weight
        for folder, module in prior.exported.items()
        for name, weight in module.named_parameters()
    }
    for name, weight in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
