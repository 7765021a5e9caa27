"""The public class: PIL pictures or tensors to codes and back, saved and loaded as a folder of stock formats.

Legend: B batch, C channels, H W pixels.
"""

import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from data.media import Transform
from data.sounds.batches import to_int16
from data.sounds.config import SoundConfig
from launch.files.downloads import fetched
from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.kernels.install import install_for_all
from stage1_tokenizer.tokenizer import folder as stock
from stage1_tokenizer.tokenizer.codec import Codec, Pictures, stacked
from stage1_tokenizer.tokenizer.pil import as_batch, to_pil


class Tokenizer(Codec):
    """A Codec that also takes PIL pictures and is saved to and loaded from a folder.

    `transform` says how its training pictures, sounds or videos were prepared. It is applied to PIL pictures; tensors
    are taken as they are. To a tokenizer of videos pictures (B, C, H, W) are clips of one frame; where it isn't
    causal, of as many equal ones as its stride of time. `codes_of` is the fingerprint of the tokenizer whose codes it
    has, if only its decoder was tuned.
    """

    def __init__(self, config: ModelConfig, transform: Transform | None = None):
        super().__init__(config)
        self.transform = transform
        self.codes_of: str | None = None

    def to_pil(self, x_BCHW: Tensor) -> list[Any]:
        """PIL pictures of floats in [-1, 1], such as `decode` returns."""
        return to_pil(x_BCHW)

    def to_sound(self, x_BCT: Tensor) -> list[np.ndarray]:
        """int16 arrays (C, T) of floats in [-1, 1], such as `decode` returns of a tokenizer of sounds."""
        return list(to_int16(x_BCT).cpu().numpy())

    def _as_tensor(self, pictures: Pictures) -> Tensor:
        if isinstance(self.transform, SoundConfig):
            return stacked(pictures, "sounds")
        batch = as_batch(pictures, self.transform)  # type: ignore[arg-type]  # of texts, encode takes x_BCT alone
        if self.config.spatial_dims < 3 or batch.ndim != 4:
            return batch
        frames = 1 if self.config.first_alone else self.config.stride[0]
        return batch.unsqueeze(2).expand(-1, -1, frames, -1, -1)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over the configuration and every weight: it ties code shards and priors to this tokenizer."""
        return stock.fingerprint(self.config, self.weights())

    @property
    def code_fingerprint(self) -> str:
        """The fingerprint that its codes carry: its own, or that of the tokenizer of which only the decoder was tuned.

        Codes, and priors over them, are of every tokenizer with this one.
        """
        return self.codes_of or self.fingerprint

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json, model.safetensors and, if the transform is known, preprocessor_config.json."""
        stock.save(Path(folder), self, self.transform, self.codes_of)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], revision: str | None = None) -> Self:
        """Load what `save_pretrained` or stage1_tokenizer.release wrote, on the CPU, in evaluation mode.

        `folder` is a folder, or a name on the Hub (ORG/NAME) whose `revision` may be a branch, a tag or a commit. Only
        JSON and safetensors are read, never a pickle. Raises UserError if the folder isn't a tokenizer, if its weights
        don't match its configuration, and if the Hub doesn't have it.
        """
        place = fetched(folder, revision)
        config, transform, stated = stock.read_settings(place)
        tokenizer = cls(config, transform)
        tokenizer.codes_of = stock.load_weights(place, tokenizer, stated)
        install_for_all(tokenizer)
        return tokenizer.eval()
