from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.encode import encode
from tests.stage2_prior.tiny import write_pictures, write_tokenizer


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Coded:
    """Pictures, a tokenizer, and the codes of the one by the other."""

    pictures: str
    held_out: str
    tokenizer: str
    codes: str
    held_out_codes: str


@pytest.fixture(scope="session")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Coded:
    place: Path = tmp_path_factory.mktemp("coded")
    pictures = write_pictures(place / "pictures", shards=5, each=18)
    held_out = write_pictures(place / "held_out", shards=2, each=9, seed=1)
    tokenizer = write_tokenizer(place / "tokenizer")
    for name, index in (("codes", pictures), ("held_out_codes", held_out)):
        assert encode(EncodeConfig(tokenizer=tokenizer, data=index, out=str(place / name), batch_size=7)) == 0
    return Coded(
        pictures,
        held_out,
        tokenizer,
        str(place / "codes" / "index.json"),
        str(place / "held_out_codes" / "index.json"),
    )


@dataclass(frozen=True)
class Trained:
    """A trained prior, and 7 samples of each class from it, drawn in batches of 4."""

    prior: str
    samples: Path


@pytest.fixture(scope="session")
def trained(coded: Coded, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from stage2_prior.sample import sample
    from stage2_prior.train import train
    from tests.stage2_prior.commands.test_train import settings
    from tests.stage2_prior.sampling.test_pictures import sampling

    place = tmp_path_factory.mktemp("trained")
    assert train(settings(coded, place / "run", steps=60)) == 0
    config = sampling(coded, str(place / "run"))
    assert sample(replace(config, out=str(place / "samples"))) == 0
    return Trained(config.prior, place / "samples")
