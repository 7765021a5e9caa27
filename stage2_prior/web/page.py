"""The demo page: what its buttons do, and the page, built with gradio."""

from collections.abc import Callable
from typing import Any

from PIL import Image

from data.pictures.config import TransformConfig
from data.pictures.transforms import to_uint8
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.measuring.scores import psnr
from stage1_tokenizer.measuring.single_pictures import code_bytes
from stage1_tokenizer.tokenizer.code_maps import has_neighbours, heat_map, neighbours, swatches
from stage1_tokenizer.tokenizer.pil import as_batch
from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.base import Prior
from stage2_prior.sampling.conditions import Classes, Prompts, Subjects
from stage2_prior.sampling.pictures import Picture, sample_codes
from stage2_prior.sampling.writing import decode_samples

NONE = "no class"
SIDE = 384
"""Pixels in which pictures are shown."""


class Demo:
    """What the buttons do, with a tokenizer and maybe a prior over its codes."""

    def __init__(self, tokenizer: Tokenizer, prior: Prior | None):
        if tokenizer.transform is None or not tokenizer.codebook_size or tokenizer.config.spatial_dims != 2:
            raise UserError("the demo needs a tokenizer of pictures with codes: choose another tokenizer")
        if prior is not None:
            prior.source.must_be_of(tokenizer.code_fingerprint, "tokenizer", "the page's")
        self.tokenizer, self.prior = tokenizer, prior

    def reconstruct(self, picture: Any) -> tuple[Any, Any, Any, list[Any], str]:
        """A PIL picture as prepared, its reconstruction, heat map of codes (None without a grid), codes and figures."""
        assert isinstance(self.tokenizer.transform, TransformConfig)
        x_BCHW = as_batch(picture, self.tokenizer.transform)
        y_BCHW, codes = self.tokenizer.reconstruct(x_BCHW)
        assert codes is not None
        shown, back = (_large(self.tokenizer.to_pil(each)[0]) for each in (x_BCHW, y_BCHW))
        colours = heat_map(codes[0], self.tokenizer.codebook_size, SIDE) if codes.ndim == 3 else None
        size, pixels = code_bytes(self.tokenizer, codes), x_BCHW[0, 0].numel()
        figures = (
            f"**{codes.numel()} codes**, {len(codes.unique())} of them different, out of {self.tokenizer.codebook_size}"
            f" · **{size} bytes** ({8 * size / pixels:.3f} bits per pixel, raw pixels take {x_BCHW.numel()})"
            f" · PSNR **{float(psnr(to_uint8(x_BCHW), to_uint8(y_BCHW))):.2f} dB**"
        )
        return shown, back, colours, codes[0].tolist(), figures

    def code_at(self, codes: list[list[int]], x: int, y: int) -> int:
        """The code under a point of the heat map."""
        scale = max(SIDE // max(len(codes), len(codes[0])), 1)
        return codes[min(y // scale, len(codes) - 1)][min(x // scale, len(codes[0]) - 1)]

    def neighbours(self, code: float) -> list[tuple[Any, str]]:
        """Swatches of the codes nearest to one, itself first, each with its number and distance."""
        found = neighbours(self.tokenizer, int(code))
        pictures = swatches(self.tokenizer, [number for number, _ in found])
        return [
            (_large(picture, 96), f"{number}" if place == 0 else f"{number} · {distance:.2f}")
            for place, (picture, (number, distance)) in enumerate(zip(pictures, found, strict=True))
        ]

    def sample(self, name: str, count: float, guidance: float, temperature: float, seed: float) -> list[Any]:
        """Pictures of a class, sampled from the prior."""
        assert self.prior is not None
        label = -1 if name == NONE else self.prior.vocabulary.label(name)
        drawing = Drawing(guidance=guidance, temperature=temperature)
        pictures = [Picture(label, number) for number in range(int(count))]
        idx_Bhw = sample_codes(self.prior, pictures, int(seed), drawing)
        return [_large(picture, 192) for picture in decode_samples(self.tokenizer, idx_Bhw, 16)]


def _large(picture: Any, side: int = SIDE) -> Any:
    """A small picture enlarged, its pixels kept square."""
    scale = max(side // max(picture.size), 1)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def page(demo: Demo, title: str, first: str | None = None) -> Any:
    """The page, a gradio.Blocks; `first` is the picture it opens with."""
    return with_tabs(demo, title, _described(demo.tokenizer), first, _reconstruct_tab, _sample_tab)


def with_tabs(
    demo: Any,
    title: str,
    described: str,
    first: str | None,
    reconstruct: Callable[[Any, Any, Any, str | None], None],
    sample: Callable[[Any, Any], None],
) -> Any:
    """A page for samples of any kind: what the tokenizer is, a tab that reconstructs and, with a prior, one to draw."""
    import gradio

    with gradio.Blocks(title=f"vqloom: {title}") as blocks:
        gradio.Markdown(f"## {title}\n{described}")
        with gradio.Tab("Reconstruct"):
            reconstruct(gradio, blocks, demo, first)
        if demo.prior is not None:
            with gradio.Tab("Sample"):
                sample(gradio, demo)
    return blocks


def subjects_of(prior: Prior, of: str) -> Subjects:
    """What a page's field asks for: a text, or a class or none."""
    return Prompts(prior, [of]) if prior.condition.texts else Classes(prior, [of] if of != NONE else ["none"])


def _reconstruct_tab(gradio: Any, blocks: Any, demo: Demo, first: str | None) -> None:
    codes = gradio.State([])
    fixed = {"type": "pil", "interactive": False, "height": SIDE, "buttons": []}
    with gradio.Row():
        given = gradio.Image(first, type="pil", label="drop a picture", height=SIDE)
        shown = gradio.Image(label="as the tokenizer sees it", **fixed)
        back = gradio.Image(label="reconstruction", **fixed)
        colours = gradio.Image(label="codes: click one", **fixed)
    figures = gradio.Markdown()
    results = [shown, back, colours, codes, figures]
    empty: tuple[Any, ...] = (None, None, None, [], "")

    def reconstruct(picture: Any) -> Any:
        return empty if picture is None else demo.reconstruct(picture)

    given.change(reconstruct, given, results)
    opened = blocks.load(reconstruct, given, results)
    if not has_neighbours(demo.tokenizer):
        return
    code = gradio.Number(0, label="code", precision=0, minimum=0, maximum=demo.tokenizer.codebook_size - 1)
    gradio.Markdown(
        "The code and its nearest ones in the codebook, with their distance; each decoded from a grid of it."
    )
    near = gradio.Gallery(show_label=False, columns=8, height=170, object_fit="contain", buttons=[])

    def click(grid: list[list[int]], event: gradio.SelectData) -> int:
        return demo.code_at(grid, *event.index)

    colours.select(click, codes, code)
    code.change(demo.neighbours, code, near)
    opened.then(lambda grid: grid[len(grid) // 2][len(grid[0]) // 2] if grid else 0, codes, code)


def _sample_tab(gradio: Any, demo: Demo) -> None:
    assert demo.prior is not None
    names = [*demo.prior.vocabulary.classes, NONE]
    most = 10.0 if len(names) > 1 else 1.0
    with gradio.Row():
        chosen = gradio.Dropdown(names, value=names[0], label="class")
        count = gradio.Slider(1, 32, value=8, step=1, label="pictures")
        guidance = gradio.Slider(1.0, most, value=min(2.0, most), step=0.5, label="guidance")
        temperature = gradio.Slider(0.1, 1.5, value=1.0, step=0.05, label="temperature")
        seed = gradio.Number(0, label="seed", precision=0, minimum=0)
    button = gradio.Button("Sample", variant="primary")
    drawn = gradio.Gallery(label="samples", columns=8, object_fit="contain", buttons=[])
    button.click(demo.sample, [chosen, count, guidance, temperature, seed], drawn)


def _described(tokenizer: Tokenizer) -> str:
    assert isinstance(tokenizer.transform, TransformConfig)
    size = tokenizer.transform.size
    count = sum(parameter.numel() for parameter in tokenizer.parameters()) / 1e6
    shape = "×".join(map(str, tokenizer.codes_shape(size)))
    codes = f"{shape} codes out of {tokenizer.codebook_size}"
    return f"{size}×{size} pixels become {codes} and back; {count:.2f} M parameters."
