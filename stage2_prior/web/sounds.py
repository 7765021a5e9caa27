"""The demo page for sounds: what its buttons do, and the page, built with gradio.

Shapes: B samples, C channels, T samples of a sound, G codebooks.
"""

import math
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from data.sounds.config import SoundConfig
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.measuring.sound_metrics import si_sdr
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.base import Prior
from stage2_prior.sampling.pictures import Picture, sample_codes
from stage2_prior.sampling.writing import decode_samples
from stage2_prior.web.page import NONE, subjects_of, with_tabs

SAMPLES = 4
"""Sounds that are sampled at once, at most."""

Heard: TypeAlias = tuple[int, np.ndarray]
"""What gradio plays: the rate and int16 samples (T, C)."""


class SoundDemo:
    """What the buttons do, with a tokenizer of sounds and maybe a prior over its codes."""

    def __init__(self, tokenizer: Tokenizer, prior: Prior | None):
        transform: Any = tokenizer.transform
        if not isinstance(transform, SoundConfig) or not tokenizer.codebook_size:
            raise UserError("the demo needs a tokenizer of sounds with codes: choose another tokenizer")
        if prior is not None:
            prior.source.must_be_of(tokenizer.code_fingerprint, "tokenizer", "the page's")
        self.tokenizer, self.prior, self.transform, self.kind = tokenizer, prior, transform, sample_kind("sounds")

    @property
    def books(self) -> int:
        """The codebooks of which the first may be enough."""
        return self.tokenizer.codebooks if self.tokenizer.config.quantizer.kind == "residual" else 1

    @torch.no_grad()
    def reconstruct(self, file: str, books: float) -> tuple[Heard, Any, Heard, Any, str]:
        """A sound as prepared and its reconstruction from the first codebooks, each with its spectrogram; figures."""
        x_BCT, _ = self.kind.read(Path(file).read_bytes(), self.transform)
        codes = self.tokenizer.encode(x_BCT)
        codes = codes[:, : int(books)] if self.books > 1 else codes
        y_BCT = self.tokenizer.decode(codes)
        given, back = self.kind.decoded(self.tokenizer, torch.cat([x_BCT, y_BCT]))
        bits = codes.numel() * math.log2(self.tokenizer.codebook_size)
        seconds = self.transform.length / self.transform.sample_rate
        figures = (
            f"**{codes.numel()} codes**, {len(codes.unique())} of them different, out of {self.tokenizer.codebook_size}"
            f" · **{bits / seconds:.0f} bits a second**"
            f" · SI-SDR **{float(si_sdr(y_BCT, x_BCT, self.transform.sample_rate)):.2f} dB**"
        )
        return heard(given), given.picture(), heard(back), back.picture(), figures

    def sample(
        self, of: str, count: float, guidance: float, temperature: float, seed: float
    ) -> list[Heard | list[Any] | None]:
        """Sounds of a class (or a text), sampled from the prior, None for the rest of SAMPLES; last, spectrograms."""
        assert self.prior is not None
        drawing = Drawing(guidance=guidance, temperature=temperature)
        subjects = subjects_of(self.prior, of)
        wanted = [Picture(subjects.labels[0], number) for number in range(int(count))]
        idx_BGT = sample_codes(self.prior, wanted, int(seed), drawing, subjects)
        sounds = decode_samples(self.tokenizer, idx_BGT, 16)
        nothing: list[Heard | list[Any] | None] = [None] * (SAMPLES - len(sounds))
        return [*map(heard, sounds), *nothing, [sound.picture() for sound in sounds]]


def heard(sound: Any) -> Heard:
    """A sound (stage2_prior.codes.sounds) as gradio plays it."""
    return sound.rate, np.ascontiguousarray(sound.x_CT.T)


def page(demo: SoundDemo, title: str, first: str | None = None) -> Any:
    """The page, a gradio.Blocks; `first` is the sound it opens with."""
    clip, tokenizer = demo.transform, demo.tokenizer
    shape = "×".join(map(str, tokenizer.codes_shape(clip.sizes)))
    count = sum(parameter.numel() for parameter in tokenizer.parameters()) / 1e6
    words = f"{clip.length / clip.sample_rate:.3g} s at {clip.sample_rate} Hz become {shape} codes out of"
    described = f"{words} {tokenizer.codebook_size} and back; {count:.2f} M parameters."
    return with_tabs(demo, title, described, first, _reconstruct_tab, _sample_tab)


def _reconstruct_tab(gradio: Any, blocks: Any, demo: SoundDemo, first: str | None) -> None:
    given = gradio.Audio(first, type="filepath", label="drop a sound")
    books = gradio.Slider(1, max(demo.books, 2), value=demo.books, step=1, label="codebooks", visible=demo.books > 1)
    with gradio.Row():
        with gradio.Column():
            shown = gradio.Audio(label="as the tokenizer hears it", interactive=False)
            spectrum = gradio.Image(label="spectrogram", interactive=False)
        with gradio.Column():
            back = gradio.Audio(label="reconstruction", interactive=False)
            spectrum_back = gradio.Image(label="its spectrogram", interactive=False)
    results = [shown, spectrum, back, spectrum_back, gradio.Markdown()]
    empty: tuple[Any, ...] = (None, None, None, None, "")

    def reconstruct(file: str | None, count: float) -> Any:
        return empty if file is None else demo.reconstruct(file, count)

    for event in (given.change, books.change, blocks.load):
        event(reconstruct, [given, books], results)


def _sample_tab(gradio: Any, demo: SoundDemo) -> None:
    assert demo.prior is not None
    names, text = [*demo.prior.vocabulary.classes, NONE], demo.prior.condition.texts
    most = 10.0 if text or len(names) > 1 else 1.0
    with gradio.Row():
        chosen = gradio.Textbox(label="text") if text else gradio.Dropdown(names, value=names[0], label="class")
        count = gradio.Slider(1, SAMPLES, value=SAMPLES, step=1, label="sounds")
        guidance = gradio.Slider(1.0, most, value=min(2.0, most), step=0.5, label="guidance")
        temperature = gradio.Slider(0.1, 1.5, value=1.0, step=0.05, label="temperature")
        seed = gradio.Number(0, label="seed", precision=0, minimum=0)
    button = gradio.Button("Sample", variant="primary")
    players = [gradio.Audio(label=f"sample {number + 1}", interactive=False) for number in range(SAMPLES)]
    pictures = gradio.Gallery(label="spectrograms", columns=SAMPLES, object_fit="contain", buttons=[])
    button.click(demo.sample, [chosen, count, guidance, temperature, seed], [*players, pictures])
