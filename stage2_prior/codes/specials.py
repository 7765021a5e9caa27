"""The special tokens of a unified prior's texts, in a stock tokenizer."""

from tokenizers import AddedToken, Tokenizer

from launch.command.cli import UserError

BEGIN, END, NONE = "<s>", "</s>", "<none>"
"""The first token of a document, its last, and what stands in place of a text that isn't there."""
SPAN = {"pictures": "picture", "sounds": "sound", "videos": "video"}
"""What a span of codes is called, by the kind of sample: <picture> … </picture>."""
ROW, FRAME = "<row>", "<frame>"
"""With `rows`, what ends a row of codes (but the last of a frame of a video), and what ends a frame of a video."""
SPECIALS = (BEGIN, END, NONE, *(token for name in SPAN.values() for token in (f"<{name}>", f"</{name}>")), ROW, FRAME)
"""The special tokens, in the order in which they are added to a tokenizer of texts."""


def with_specials(text: Tokenizer) -> Tokenizer:
    """The tokenizer with those of SPECIALS that it lacks behind its tokens (it is changed)."""
    missing = [token for token in SPECIALS if text.token_to_id(token) is None]
    text.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    return text


def size_of(text: Tokenizer) -> int:
    """The number of ids of a tokenizer, holes included."""
    return max(text.get_vocab().values()) + 1


def id_of(text: Tokenizer, token: str) -> int:
    """The id of a token; UserError without one."""
    found = text.token_to_id(token)
    if found is None:
        raise UserError(f"the tokenizer of texts has no token {token}: add it")
    return int(found)
