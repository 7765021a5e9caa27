"""The tokenizer of a unified prior as stock files: plain transformers and servers read and write codes as text.

`tokenizer.json` is that of the texts with a token for each code behind it, <NAME_0>, <NAME_1>, …, in the order of ids.
These, and the tokens that open and close spans, are no "special" ones, which servers leave out of their answers; a
prompt's codes are read back. Prompts get <s> in front. The chat template joins the messages as they are: a request for
a picture ends with the token that opens one.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from launch.command.cli import UserError, reason
from stage2_prior.codes.specials import SPECIALS
from stage2_prior.codes.unified import BEGIN, END, TOKENIZER, UnifiedVocabulary

CHAT = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_tokenizer(vocabulary: UnifiedVocabulary, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    described = json.loads(vocabulary.text.to_str())
    ends = [token for block in vocabulary.blocks for token in (block.opening, block.closing, block.row, block.frame)]
    shown = {vocabulary.text.id_to_token(token) for token in ends if token is not None}
    added = [token | ({"special": False} if token["content"] in shown else {}) for token in described["added_tokens"]]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    holes = sorted(set(range(vocabulary.texts)) - set(vocabulary.text.get_vocab().values()))
    added += [{"id": hole, "content": f"<unused_{hole}>", **flags} for hole in holes]
    for block in vocabulary.blocks:
        added += [{"id": block.first + i, "content": f"<{block.name}_{i}>", **flags} for i in range(block.size)]
    described["added_tokens"] = sorted(added, key=lambda token: token["id"])
    if described["post_processor"] is None or described["post_processor"]["type"] == "ByteLevel":
        described["post_processor"] = _beginning(vocabulary)
    stock = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )
    stock.chat_template = CHAT
    stock.save_pretrained(folder)


def _beginning(vocabulary: UnifiedVocabulary) -> dict[str, object]:
    """What puts <s> in front of a prompt."""
    begin = {"SpecialToken": {"id": BEGIN, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BEGIN: {"id": BEGIN, "ids": [vocabulary.begin], "tokens": [BEGIN]}},
    }


def read_text_tokenizer(folder: Path, texts: int) -> Tokenizer:
    """The tokenizer of texts, of `texts` tokens, that `write_tokenizer` wrote; UserError where it can't be read."""
    try:
        described = json.loads((folder / TOKENIZER).read_text())
        # Special again, so that a text with "<picture>" in it means these letters.
        described["added_tokens"] = [
            token | ({"special": True} if token["content"] in SPECIALS else {})
            for token in described["added_tokens"]
            if token["id"] < texts
        ]
        return Tokenizer.from_str(json.dumps(described))
    except Exception as error:  # tokenizers raises plain ones
        raise UserError(f"{folder / TOKENIZER} can't be read ({reason(error)}): export the prior again") from error
