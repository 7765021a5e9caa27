"""A released unified prior, served over HTTP by transformers' own server, and the client of its card."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from stage1_tokenizer.publishing.card import Publication
from stage2_prior.priors.build import load_prior
from stage2_prior.publishing.card import write_card
from tests.stage2_prior.tiny import write_tokenizer
from tests.stage2_prior.unified.conftest import TEXTS

CONFIG = {"steps": 1, "data": {"batch_size": 6}, "run": {"precision": "fp32"}, "optimizer": {"ema_decay": 0.9}}


@pytest.fixture
def port(exported: tuple[Path, torch.Tensor]) -> Iterator[int]:
    """That of a server of the prior, which answers like OpenAI's."""
    pytest.importorskip("openai", reason="transformers serve needs openai: pip install 'vqloom[serve]'")
    from transformers.cli.serve import Serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    server = Serve(str(exported[0]), host="127.0.0.1", port=number, device="cpu", non_blocking=True)
    while not server.server.started:
        assert server._thread.is_alive()
    yield number
    server.kill_server()


def test_the_cards_client_makes_a_picture_of_what_is_served(
    exported: tuple[Path, torch.Tensor],
    port: int,
    tmp_path: Path,
) -> None:
    folder, code_BN = exported
    write_card(tmp_path / "card.md", Publication(str(folder), "mit", "it"), load_prior(folder), folder, CONFIG, {}, {})
    card = (tmp_path / "card.md").read_text()
    assert "a stock `LlamaForCausalLM`" in card and "| picture: 3×4 codes out of 24 |" in card
    snippet = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1]
    for word, now in (
        ("localhost:8000", f"127.0.0.1:{port}"),
        ("TOKENIZER", write_tokenizer(tmp_path / "tokenizer")),
        ("picture.png", str(tmp_path / "picture.png")),
        ("a text<picture>", f"{TEXTS[1]}<picture>"),
    ):
        assert word in snippet
        snippet = snippet.replace(word, now)
    names: dict[str, torch.Tensor] = {}
    exec(snippet, names)
    assert torch.equal(names["codes"], code_BN[1]), "the greedy tokens of our sampler and of generate"
    assert Image.open(tmp_path / "picture.png").size == (16, 12)
