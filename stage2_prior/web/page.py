"""The demo page, built with gradio."""

from typing import Any

from stage1_tokenizer import Tokenizer
from stage1_tokenizer.tokenizer.code_maps import has_neighbours
from stage2_prior.web.demo import NONE, SIDE, Demo


def page(demo: Demo, title: str, first: str | None = None) -> Any:
    """The page, a gradio.Blocks; `first` is the picture it opens with."""
    import gradio

    with gradio.Blocks(title=f"vqloom: {title}") as blocks:
        gradio.Markdown(f"## {title}\n{_described(demo.tokenizer)}")
        with gradio.Tab("Reconstruct"):
            _reconstruct_tab(gradio, blocks, demo, first)
        if demo.prior is not None:
            with gradio.Tab("Sample"):
                _sample_tab(gradio, demo)
    return blocks


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
    assert tokenizer.transform is not None
    size = tokenizer.transform.size
    count = sum(parameter.numel() for parameter in tokenizer.parameters()) / 1e6
    shape = "×".join(map(str, tokenizer.codes_shape(size)))
    codes = f"{shape} codes out of {tokenizer.codebook_size}"
    return f"{size}×{size} pixels become {codes} and back; {count:.2f} M parameters."
