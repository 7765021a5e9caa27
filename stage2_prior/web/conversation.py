"""A conversation with a unified prior on the demo page: it takes and gives pictures (or sounds, videos) and texts.

A turn is answered by its own content, or with all turns before it as one document, which suits priors trained on
documents of several pieces.

Shapes: N codes of a sample.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from launch.command.cli import UserError, reason
from stage1_tokenizer import Tokenizer
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.continuing import draw_span
from stage2_prior.priors.unified import UnifiedPrior
from stage2_prior.sampling.pictures import Picture, uniforms
from stage2_prior.sampling.writing import decode_samples
from stage2_prior.web.page import SIDE

TEXT, AUTO = "a text", "what fits"
TOKENS = 64
"""Tokens of a written answer, at most."""

Turn = dict[str, Any]
"""A message as gradio shows it: its role, and a text or the path of a file."""


class Conversation:
    """What the turns do, with a unified prior and a tokenizer that it was trained with."""

    def __init__(self, prior: UnifiedPrior, tokenizer: Tokenizer):
        over = prior.over_codes_of(tokenizer.code_fingerprint, "tokenizer", "the page's")
        assert tokenizer.transform is not None, "releases have one"
        self.prior, self.tokenizer, self.over, self.transform = prior, tokenizer, over, tokenizer.transform
        self.kind = sample_kind(self.transform.kind)
        self._files = tempfile.TemporaryDirectory(prefix="vqloom-")

    @property
    def sample_word(self) -> str:
        """What it can answer with besides texts."""
        return f"a {self.kind.name[:-1]}"

    def answer(
        self,
        text: str,
        files: Sequence[str],
        ids: Sequence[int],
        *,
        wanted: str = AUTO,
        guidance: float = 1.0,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> tuple[list[Turn], list[int]]:
        """The turns that a message adds to the page, its own first, and the ids of the whole conversation after it.

        `ids` are those of the turns before, which the answer knows; without any it begins anew. A text is answered by
        a sample, samples by a text, unless `wanted` says otherwise. UserError for a file of another kind, and where
        the conversation is longer than the prior reads.
        """
        shown: list[Turn] = [{"role": "user", "content": {"path": file}} for file in files]
        shown += [{"role": "user", "content": text}] if text else []
        vocabulary = self.prior.vocabulary
        ids = list(ids) or [vocabulary.begin]
        for file in files:
            ids += [self.over.block.opening, *self._codes(file), self.over.block.closing]
        ids += vocabulary.encode_text(text)
        draws_sample = wanted == self.sample_word or (wanted == AUTO and not files)
        if len(ids) + (self.over.block.length + 2 if draws_sample else 2) > self.prior.source.positions:
            raise UserError(f"the conversation is longer than the prior's {self.prior.source}: begin a new one")
        if draws_sample:
            path, more = self._drawn(ids, guidance, temperature, seed)
            return [*shown, {"role": "assistant", "content": {"path": path}}], [*ids, *more]
        more = self._written(ids, temperature, seed)
        return [*shown, {"role": "assistant", "content": vocabulary.decode_text(more) or "…"}], [*ids, *more]

    def _codes(self, file: str) -> list[int]:
        """The ids of a file's codes."""
        try:
            x, _ = self.kind.read(Path(file).read_bytes(), self.transform)
        except Exception as error:  # PIL raises all kinds of exceptions on damaged input
            raise UserError(f"{Path(file).name} can't be read as {self.sample_word} ({reason(error)})") from error
        with torch.inference_mode():
            code_1N = self.tokenizer.encode(x).flatten(1)
        return list(self.over.block.tokens(code_1N)[0].tolist())

    def _drawn(self, ids: list[int], guidance: float, temperature: float, seed: int) -> tuple[str, list[int]]:
        """A sample that follows, as a file, and its ids."""
        block, vocabulary = self.over.block, self.prior.vocabulary
        drawing = Drawing(guidance=guidance, temperature=temperature)
        uniform_1N = uniforms(seed, [Picture(-1, len(ids))], self.over.draws(drawing))
        null = [vocabulary.begin, vocabulary.none, block.opening]
        token_1S = draw_span(self.prior.lm, block, [[*ids, block.opening]], [null], uniform_1N, drawing)
        codes = block.codes_of(token_1S).unflatten(1, block.source.shape)
        (sample,) = decode_samples(self.tokenizer, codes, 1)
        path = Path(self._files.name) / f"{len(list(Path(self._files.name).iterdir())):05d}{self.kind.suffix}"
        if self.kind.name == "pictures":
            scale = max(SIDE // max(sample.size), 1)
            sample = sample.resize((sample.width * scale, sample.height * scale), 0)  # pixels stay square
        sample.save(path)
        return str(path), [block.opening, *token_1S[0].tolist(), block.closing]

    def _written(self, ids: list[int], temperature: float, seed: int) -> list[int]:
        """The ids of a text that follows."""
        room = min(TOKENS, self.prior.source.positions - len(ids))
        uniform_1U = uniforms(seed, [Picture(-1, len(ids))], room)
        return self.prior.continued(uniform_1U, [ids], Drawing(temperature=temperature))[0]


def page(conversation: Conversation, title: str) -> Any:
    """The page, a gradio.Blocks."""
    import gradio

    kind = conversation.kind
    extensions = sorted(f".{extension}" for extension in kind.extensions)
    with gradio.Blocks(title=f"vqloom: {title}") as blocks:
        one = conversation.sample_word
        gradio.Markdown(f"## {title}\nSend a text to get {one}, or {one} to get a text.")
        ids = gradio.State([])
        shown = gradio.Chatbot(label="conversation", height=480, buttons=[])
        message = gradio.MultimodalTextbox(label="message", file_types=extensions, file_count="multiple")
        with gradio.Row():
            wanted = gradio.Radio([AUTO, conversation.sample_word, TEXT], value=AUTO, label="answer with")
            whole = gradio.Checkbox(False, label="know the turns before")
            guidance = gradio.Slider(1.0, 10.0, value=3.0, step=0.5, label="guidance")
            temperature = gradio.Slider(0.0, 1.5, value=1.0, step=0.05, label="temperature")
            seed = gradio.Number(0, label="seed", precision=0, minimum=0)
        gradio.ClearButton([shown, ids, message], value="New conversation")

        def turn(said: Any, turns: list[Turn], before: list[int], *how: Any) -> Any:
            if not said or not (said["text"] or said["files"]):
                return said, turns, before
            wish, known, strength, heat, number = how
            settings = {"wanted": wish, "guidance": strength, "temperature": heat, "seed": int(number)}
            try:
                new, after = conversation.answer(said["text"], said["files"], before if known else [], **settings)
            except UserError as error:
                raise gradio.Error(str(error)) from error
            return {"text": "", "files": []}, [*turns, *new], after

        inputs = [message, shown, ids, wanted, whole, guidance, temperature, seed]
        message.submit(turn, inputs, [message, shown, ids])
    return blocks


def beside(first: Any, conversation: Conversation, title: str) -> Any:
    """A page of two tabs: the tokenizer's own page, and the conversation."""
    import gradio

    tabs = {"Conversation": page(conversation, title), "Tokenizer": first}
    return gradio.TabbedInterface(list(tabs.values()), list(tabs), title=f"vqloom: {title}")
