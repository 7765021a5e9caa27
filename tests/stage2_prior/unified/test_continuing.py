"""Drawing from a unified prior: ids of the block alone within spans, and the tokens of transformers' own generate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.build import load_prior
from stage2_prior.priors.unified import UnifiedPrior
from stage2_prior.unified.prompts import to_describe, to_write
from tests.stage2_prior.unified.conftest import TEXTS
from tests.stage2_prior.unified.test_losses import KNOWN, tiny_unified
from tests.stage2_prior.unified.tiny import SOUNDS, vocabulary

GREEDY = Drawing(temperature=0)


def test_the_same_greedy_tokens_as_transformers(exported: tuple[Path, torch.Tensor]) -> None:
    folder, code_BN = exported
    prior = load_prior(folder)
    assert isinstance(prior, UnifiedPrior)
    over, nothing_BN = prior.over(prior.vocabulary.blocks[0]), torch.zeros(3, 12)
    drawn_BN = over.sample(over.condition.of_texts(TEXTS), nothing_BN, GREEDY)
    assert torch.equal(drawn_BN, code_BN)
    stock, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    write = pipeline("text-generation", model=stock, tokenizer=tokenizer, device="cpu")
    for text, code_N in zip(TEXTS, code_BN.tolist(), strict=True):
        codes = "".join(f"<picture_{code}>" for code in code_N)
        asked = tokenizer(f"{text}<picture>", return_tensors="pt")
        assert asked["input_ids"].tolist() == over.prompts(over.condition.of_texts([text]))
        answer = stock.generate(**asked, do_sample=False)[0, asked["input_ids"].shape[1] :]
        assert tokenizer.decode(answer, skip_special_tokens=True) == f"{codes}</picture>"
        message = [{"role": "user", "content": f"<picture>{codes}</picture>"}]
        asked_T = tokenizer.apply_chat_template(message, tokenize=True, return_dict=False)
        assert [asked_T] == to_describe(prior.vocabulary, prior.vocabulary.blocks[0], torch.tensor([code_N]))
        (told,) = prior.continued(torch.zeros(1, 8), [asked_T], GREEDY)
        assert prior.vocabulary.decode_text(told) == text
        assert write(message[0]["content"], return_full_text=False)[0]["generated_text"] == text
    begun = [to_write(prior.vocabulary, text[:1]) for text in TEXTS[:2]]
    assert [prior.vocabulary.decode_text(ids) for ids in prior.continued(torch.zeros(2, 8), begun, GREEDY)] == [
        "b",
        "ca",
    ]


def test_rows_of_other_lengths_beside_it_change_nothing() -> None:
    prior = tiny_unified()
    over, uniform_BN = prior.over(KNOWN.blocks[0]), torch.rand(3, 12)
    drawing = Drawing(guidance=2.0, guidance_until=0.6, top_p=0.9, final_temperature=0.5)
    texts = ("a", "a longer text", "")
    together_BN = over.sample(over.condition.of_texts(texts), uniform_BN, drawing)
    for text, uniform_N, code_N in zip(texts, uniform_BN, together_BN, strict=True):
        assert torch.equal(over.sample(over.condition.of_texts([text]), uniform_N[None], drawing)[0], code_N)
    given_BN = torch.full((3, 12), -1)
    given_BN[:, :5] = 7
    kept_BN = over.sample(over.condition.of_texts(texts), uniform_BN, drawing, given_BN)
    assert (kept_BN[:, :5] == 7).all() and kept_BN.shape == (3, 12)


@pytest.mark.parametrize("forms", [{}, {"delayed": True}])
def test_spans_hold_their_blocks_ids_alone_in_any_form(forms: dict[str, bool]) -> None:
    """Of an untrained prior, whose logits are anywhere; rated codes are the drawn ones' probabilities."""
    known = vocabulary(SOUNDS, **forms)
    prior = tiny_unified()
    prior.lm.resize_token_embeddings(known.size)
    prior = UnifiedPrior(prior.lm, known, prior.source)
    over = prior.over(known.blocks[0])
    token_BL = over.condition.of_texts(["ab", ""])
    code_BN = over.sample(token_BL, torch.rand(2, 10), Drawing())
    assert int(code_BN.min()) >= 0 and int(code_BN.max()) < 8
    greedy_BN = over.sample(token_BL, torch.rand(2, 10), GREEDY)
    nats_BN, right_BN = over.score(greedy_BN, token_BL)
    assert right_BN.all() and (nats_BN <= torch.tensor(8.0).log()).all()
    nats_BN, right_BN = over.score(code_BN, token_BL)
    assert not right_BN.all()
    begun = [known.begin, known.blocks[0].opening]
    (told,) = prior.continued(torch.rand(1, 30), [begun], Drawing(temperature=3.0), media=True)
    block = known.blocks[0]
    for place, token in enumerate(told[: block.length + 1]):
        first, stop = block.allowed(place)
        assert first <= token < stop
    assert told[block.length] == block.closing
    (text,) = prior.continued(torch.rand(1, 30), [[known.begin]], Drawing(temperature=3.0))
    assert all(token < known.texts for token in text) and block.opening not in text
