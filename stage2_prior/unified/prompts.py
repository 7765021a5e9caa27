"""What a unified prior goes on from: the beginning of a text, or codes that it is to describe.

Shapes: B samples, N codes of each.
"""

from torch import Tensor

from stage2_prior.codes.unified import Block, UnifiedVocabulary


def to_describe(vocabulary: UnifiedVocabulary, block: Block, code_BN: Tensor) -> list[list[int]]:
    """The ids behind which the texts of samples come; code_BN are their codes, flattened from their form."""
    spans = block.tokens(code_BN).tolist()
    return [[vocabulary.begin, block.opening, *span, block.closing] for span in spans]


def to_write(vocabulary: UnifiedVocabulary, text: str) -> list[int]:
    """The ids behind which a text that begins so goes on."""
    return [vocabulary.begin, *vocabulary.encode_text(text)]
