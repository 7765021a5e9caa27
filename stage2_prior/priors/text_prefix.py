"""Captions as a prefix of embeddings in front of the codes.

    bytes    a stock ModernBERT over the text's bytes, part of the prior and trained with it
    frozen   a text encoder from a folder or the Hub; only the projection of its output is the prior's

A text is token_BL, int64, padded with -1; all -1 is no text, which guidance compares with. Padding gets a learned
embedding of its position, so that every prefix has length L and needs no mask.

Shapes: B batch, L tokens of a text (`model.text.tokens`), E features of the encoder, D width of the prior.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForTextEncoding, AutoTokenizer, ModernBertModel
from transformers.utils import logging

from launch.checkpoints.names import unwrapped
from launch.command.cli import UserError, reason
from stage2_prior.config.model import BYTES, TextConfig
from stage2_prior.priors.stock import bert_settings

CONFIG, WEIGHTS = "config.json", "model.safetensors"
NONE = -1
"""Padding of a text."""


class FrozenEncoder:
    """A pretrained text encoder with its tokenizer, loaded on first use.

    It isn't an nn.Module, so that it is no part of the prior: not trained, not sharded, not saved.
    """

    def __init__(self, name: str, revision: str | None):
        self.name, self.revision = name, revision
        self._loaded: tuple[Any, Any] | None = None

    def config(self) -> Any:
        """Its configuration; for a model of texts and pictures that of the text half."""
        return self._fetch(lambda: AutoConfig.from_pretrained(self.name, revision=self.revision)).get_text_config()

    def tokens(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        """Each text's tokens, at most `longest`; none for an empty text."""
        tokenizer = self._load()[0]
        return [
            list(tokenizer(text, truncation=True, max_length=longest)["input_ids"]) if text else [] for text in texts
        ]

    def length(self, text: str) -> int:
        """Tokens of a text, all of them."""
        return len(self._load()[0](text)["input_ids"]) if text else 0

    @torch.no_grad()
    def features(self, token_BL: Tensor, there_BL: Tensor) -> Tensor:
        """Features of the tokens, x_BLE float32; there_BL masks the padding."""
        model = self._load()[1].to(token_BL.device)
        with torch.autocast(token_BL.device.type, enabled=False):
            return model(input_ids=token_BL, attention_mask=there_BL.long()).last_hidden_state

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            config = self.config()
            kept: dict[str, Any] = {"revision": self.revision, "dtype": torch.float32, "use_safetensors": True}
            tokenizer = self._fetch(lambda: AutoTokenizer.from_pretrained(self.name, revision=self.revision))
            model = self._fetch(lambda: AutoModelForTextEncoding.from_pretrained(self.name, config=config, **kept))
            self._loaded = tokenizer, model.eval().requires_grad_(False)
        return self._loaded

    def _fetch(self, get: Callable[[], Any]) -> Any:
        logging.disable_progress_bar()
        try:
            return get()
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the text encoder {self.name} can't be loaded ({reason(error)}): give a folder or repository with its "
                "tokenizer and safetensors weights (model.text.encoder in training, text_encoder in sampling), or use "
                "bytes"
            ) from error


class TextPrefix(nn.Module):
    """Tokens of texts, token_BL, and the prefix made of them."""

    def __init__(self, config: TextConfig, width: int, heads: int, features: int | None = None):
        """For a prior of `width`; `features` is E of a frozen encoder, by default from its configuration."""
        super().__init__()
        self.config, self.width, self.heads = config, width, heads
        self.frozen: FrozenEncoder | None = None
        self.bytes: Any = None
        if config.encoder == BYTES:
            settings = bert_settings(
                config.layers,
                rope_theta=10000.0,
                vocab_size=256,
                hidden_size=width,
                intermediate_size=2 * width,
                num_attention_heads=heads,
                max_position_embeddings=config.tokens,
            )
            self.bytes, features = ModernBertModel(settings), width
        else:
            self.frozen = FrozenEncoder(config.encoder, config.revision)
            if features is None:
                features = self._frozen_features()
        assert features is not None
        self.features = features
        self.norm = nn.LayerNorm(features, elementwise_affine=False)
        self.project = nn.Linear(features, width)
        self.place = nn.Embedding(config.tokens, width)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.normal_(self.place.weight, std=0.02)

    def _frozen_features(self) -> int:
        """E of the frozen encoder; UserError if it takes fewer tokens than configured."""
        assert self.frozen is not None
        encoder = self.frozen.config()
        most = getattr(encoder, "max_position_embeddings", None)
        if most is not None and self.config.tokens > most:
            raise UserError(
                f"model.text.tokens={self.config.tokens} is more than the {most} that {self.config.encoder} takes: "
                f"set it to {most} or less"
            )
        self.revision = getattr(encoder, "_commit_hash", None) or self.config.revision
        return int(encoder.hidden_size)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """token_BL of texts, on the CPU; an empty text is all padding."""
        longest = self.config.tokens
        if self.frozen is not None:
            tokens = self.frozen.tokens(texts, longest)
        else:
            tokens = [list(text.encode()[:longest]) for text in texts]
        return torch.tensor([each + [NONE] * (longest - len(each)) for each in tokens], dtype=torch.int64)

    def length(self, text: str) -> int:
        """Tokens that a text would have if it were not cut at `model.text.tokens`."""
        return self.frozen.length(text) if self.frozen is not None else len(text.encode())

    def forward(self, token_BL: Tensor) -> Tensor:
        """The prefix, x_BLD."""
        there_BL = token_BL != NONE
        # Attention needs at least one token: without a text the first is attended to, but its output isn't used.
        attended_BL = there_BL | (torch.arange(token_BL.shape[1], device=token_BL.device) == 0)
        id_BL = token_BL.clamp(min=0)
        if self.frozen is not None:
            x_BLE = self.frozen.features(id_BL, attended_BL)
        else:
            # Of a mask of all pairs transformers doesn't ask whether it masks anything, for which a GPU would wait.
            attended_B1LL = attended_BL[:, None, None].expand(-1, -1, attended_BL.shape[1], -1)
            x_BLE = self.bytes(input_ids=id_BL, attention_mask=attended_B1LL).last_hidden_state
        x_BLD = self.project(self.norm(x_BLE.to(self.project.weight.dtype)))
        place_LD = self.place(torch.arange(token_BL.shape[1], device=token_BL.device))
        return torch.where(there_BL[..., None], x_BLD, place_LD.to(x_BLD.dtype))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, which names the encoder, and model.safetensors (without a frozen encoder's weights)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        revision = getattr(self, "revision", self.config.revision)
        about = {**asdict(self.config), "revision": revision}
        described = {"text": about, "width": self.width, "heads": self.heads, "features": self.features}
        (folder / CONFIG).write_text(json.dumps(described, indent=1) + "\n")
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: str | Path, encoder: str | None = None) -> Self:
        """The prefix that `save_pretrained` wrote; `encoder` replaces the recorded place of the frozen encoder.

        UserError if it can't be read.
        """
        folder = Path(folder)
        try:
            described = json.loads((folder / CONFIG).read_text())
            about = TextConfig(**described["text"])
            if encoder is not None:
                if about.encoder == BYTES:
                    raise UserError(
                        f"text_encoder={encoder} needs a prior with a frozen encoder, not bytes: leave it out"
                    )
                about = TextConfig(encoder, None, about.tokens, about.layers)
            prefix = cls(about, described["width"], described["heads"], described["features"])
            prefix.load_state_dict(unwrapped(load_file(folder / WEIGHTS), str(folder / WEIGHTS)))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{folder} can't be read ({reason(error)}): export the prior again") from error
        return prefix
