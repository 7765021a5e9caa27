"""What the tests of unified priors share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stage2_prior.priors.unified import UnifiedPrior
from stage2_prior.unified.packing import pack
from stage2_prior.unified.segments import MediaSegment, TextSegment, directed, layout
from tests.stage2_prior.unified.test_losses import KNOWN, tiny_unified
from tests.stage2_prior.unified.tiny import PICTURES, letters, write_codes, write_texts

TEXTS = ("ab", "bca", "c")


def trained() -> tuple[UnifiedPrior, torch.Tensor]:
    """A prior that knows three pictures and their names by heart, and their codes."""
    prior = tiny_unified(spread=1.0)
    code_BN = torch.randint(24, (3, 12), generator=torch.Generator().manual_seed(5))
    found = []
    for text, code_N in zip(TEXTS, code_BN.numpy(), strict=True):
        both = [TextSegment.of(KNOWN, text), MediaSegment(KNOWN.blocks[0], code_N.reshape(3, 4))]
        found += [layout(KNOWN, directed(both, direction)) for direction in ("text_to_media", "media_to_text")]
        found.append(layout(KNOWN, both[:1]))
    packed, weight_K = pack(found, 40, KNOWN.end), torch.full((len(KNOWN.kinds),), 1 / 60)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss, nats_K = prior(packed.token_BT, packed.document_BT, packed.kind_BT, weight_K)
        loss.backward()
        optimizer.step()
    assert float(nats_K.sum()) / 60 < 0.2
    return prior.eval(), code_BN


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    folder = tmp_path_factory.mktemp("exported") / "prior"
    folder.mkdir()
    prior, code_BN = trained()
    prior.save_pretrained(folder, steps=150)
    return folder, code_BN


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unified")
    write_codes(folder / "pictures", PICTURES, [f"a{'b' * i}" for i in range(7)] + [""])
    write_texts(folder / "texts", [f"line {i}\n" + "x" * (7 * i) for i in range(8)])
    letters().save(str(folder / "tokenizer.json"))
    return folder
