"""The demo page for videos: what its buttons do, and the page, built with gradio.

Shapes: B samples, C channels, T frames, H W pixels.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data.pictures.transforms import to_uint8
from data.videos.config import VideoConfig
from data.videos.shown import film
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.layers.video import frames_of
from stage1_tokenizer.measuring.scores import psnr
from stage1_tokenizer.measuring.single_pictures import code_bytes
from stage1_tokenizer.measuring.video_metrics import difference_psnr
from stage2_prior.codes.axes import kept_codes
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.base import Prior
from stage2_prior.sampling.conditions import Subjects
from stage2_prior.sampling.pictures import Picture, sample_codes
from stage2_prior.sampling.writing import decode_samples
from stage2_prior.web.page import NONE, subjects_of, with_tabs

SAMPLES = 8
"""Clips that are sampled at once, at most."""
LARGE = 192
"""Pixels that clips are enlarged to, about."""


class Begun(Subjects):
    """Other subjects, whose samples all begin with the same codes."""

    def __init__(self, others: Subjects, given_1N: torch.Tensor):
        super().__init__(others.prior, others.labels, list(others.names.values()), list(others.folders.values()))
        self.others, self.given_1N = others, given_1N

    def tokens(self, labels: Sequence[int]) -> torch.Tensor:
        """The others'."""
        return self.others.tokens(labels)

    def given(self, labels: Sequence[int]) -> torch.Tensor:
        """The codes that stay, given_BN."""
        return self.given_1N.expand(len(labels), -1)


class VideoDemo:
    """What the buttons do, with a tokenizer of videos and maybe a prior; its clips lie in a temporary folder."""

    def __init__(self, tokenizer: Tokenizer, prior: Prior | None):
        transform: Any = tokenizer.transform
        if not isinstance(transform, VideoConfig) or not tokenizer.codebook_size:
            raise UserError("the demo needs a tokenizer of videos with codes: choose another tokenizer")
        if prior is not None:
            prior.source.must_be_of(tokenizer.code_fingerprint, "tokenizer", "the page's")
        self.tokenizer, self.prior, self.transform, self.kind = tokenizer, prior, transform, sample_kind("videos")
        self._folder = tempfile.TemporaryDirectory()
        self._written = 0

    def shown(self, video: Any) -> str:
        """A clip (stage2_prior.codes.videos) as an animated WebP that a browser shows, its pixels kept square."""
        scale = max(LARGE // self.transform.size, 1)
        x_CTHW = video.x_CTHW.repeat(scale, axis=2).repeat(scale, axis=3)
        self._written += 1
        path = Path(self._folder.name) / f"{self._written}.webp"
        path.write_bytes(film(x_CTHW, video.rate))
        return str(path)

    @torch.no_grad()
    def reconstruct(self, file: str) -> tuple[str, str, str]:
        """A video file as prepared, its reconstruction, and figures."""
        x_BCTHW, _ = self.kind.read(Path(file).read_bytes(), self.transform)
        y_BCTHW, codes = self.tokenizer.reconstruct(x_BCTHW)
        assert codes is not None
        given, back = self.kind.decoded(self.tokenizer, torch.cat([x_BCTHW, y_BCTHW]))
        x, y = to_uint8(x_BCTHW), to_uint8(y_BCTHW)
        size, pixels = code_bytes(self.tokenizer, codes), x[0, 0].numel()
        changes = f", of changes **{float(difference_psnr(x, y)):.2f} dB**" if x.shape[2] > 1 else ""
        figures = (
            f"**{codes.numel()} codes**, {len(codes.unique())} of them different, out of {self.tokenizer.codebook_size}"
            f" · **{size} bytes** ({8 * size / pixels:.4f} bits per pixel, raw pixels take {x.numel()})"
            f" · PSNR **{float(psnr(frames_of(x), frames_of(y)).mean()):.2f} dB**{changes}"
        )
        return self.shown(given), self.shown(back), figures

    def sample(
        self, of: str, count: float, guidance: float, temperature: float, seed: float, first: str | None, frames: float
    ) -> list[str]:
        """Clips of a class (or a text), sampled from the prior; with a video `first`, its first frames stay."""
        assert self.prior is not None
        drawing = Drawing(guidance=guidance, temperature=temperature)
        subjects = subjects_of(self.prior, of)
        if first is not None:
            subjects = Begun(subjects, self._given(first, int(frames)))
        wanted = [Picture(subjects.labels[0], number) for number in range(int(count))]
        codes = sample_codes(self.prior, wanted, int(seed), drawing, subjects)
        return [self.shown(video) for video in decode_samples(self.tokenizer, codes, 8)]

    def _given(self, file: str, frames: int) -> torch.Tensor:
        """The codes of a video's first frames, -1 for those of the others; UserError for frames inside a code."""
        assert self.prior is not None
        x_BCTHW, _ = self.kind.read(Path(file).read_bytes(), self.transform)
        codes = self.tokenizer.encode(x_BCTHW)
        codes[..., kept_codes(self.prior.source, frames) :, :, :] = -1
        return codes.flatten(1)


def page(demo: VideoDemo, title: str, first: str | None = None) -> Any:
    """The page, a gradio.Blocks; `first` is the video it opens with."""
    clip, tokenizer = demo.transform, demo.tokenizer
    shape = "×".join(map(str, tokenizer.codes_shape(clip.sizes)))
    count = sum(parameter.numel() for parameter in tokenizer.parameters()) / 1e6
    words = f"{clip.frames} frames of {clip.size}×{clip.size} pixels become {shape} codes out of"
    described = f"{words} {tokenizer.codebook_size} and back; {count:.2f} M parameters."
    return with_tabs(demo, title, described, first, _reconstruct_tab, _sample_tab)


def _reconstruct_tab(gradio: Any, blocks: Any, demo: VideoDemo, first: str | None) -> None:
    given = gradio.File(first, type="filepath", label="drop a video")
    with gradio.Row():
        shown = gradio.Image(label="as the tokenizer sees it", interactive=False, type="filepath")
        back = gradio.Image(label="reconstruction", interactive=False, type="filepath")
    results = [shown, back, gradio.Markdown()]
    empty: tuple[Any, ...] = (None, None, "")

    def reconstruct(file: str | None) -> Any:
        return empty if file is None else demo.reconstruct(file)

    for event in (given.change, blocks.load):
        event(reconstruct, [given], results)


def _sample_tab(gradio: Any, demo: VideoDemo) -> None:
    assert demo.prior is not None
    names, text = [*demo.prior.vocabulary.classes, NONE], demo.prior.condition.texts
    most = 10.0 if text or len(names) > 1 else 1.0
    with gradio.Row():
        chosen = gradio.Textbox(label="text") if text else gradio.Dropdown(names, value=names[0], label="class")
        count = gradio.Slider(1, SAMPLES, value=4, step=1, label="clips")
        guidance = gradio.Slider(1.0, most, value=min(2.0, most), step=0.5, label="guidance")
        temperature = gradio.Slider(0.1, 1.5, value=1.0, step=0.05, label="temperature")
        seed = gradio.Number(0, label="seed", precision=0, minimum=0)
    with gradio.Row():
        first = gradio.File(type="filepath", label="go on from the first frames of a video (or leave it empty)")
        frames = gradio.Number(1, label="frames that stay", precision=0, minimum=1)
    button = gradio.Button("Sample", variant="primary")
    clips = gradio.Gallery(label="samples", columns=4, object_fit="contain")
    button.click(demo.sample, [chosen, count, guidance, temperature, seed, first, frames], clips)
