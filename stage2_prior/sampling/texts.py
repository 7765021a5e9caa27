"""Texts from a unified prior: captions of given samples, and texts that go on from a beginning.

Shapes: B texts, U random numbers of each (its tokens).
"""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from data.media import Transform
from launch.command.cli import UserError
from launch.files.atomic import new_folder, write_file
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.layers.precision import TYPES, ieee
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.config.texts import DescribeConfig, TextDrawing, WriteConfig
from stage2_prior.priors.base import weights_hash
from stage2_prior.priors.build import load_prior
from stage2_prior.priors.of_block import BlockPrior
from stage2_prior.priors.unified import UnifiedPrior
from stage2_prior.sampling.conditions import prompts_of
from stage2_prior.sampling.given import GivenSamples, given_samples
from stage2_prior.sampling.pictures import Picture, uniforms
from stage2_prior.unified.prompts import to_describe, to_write

CAPTIONS = "captions.json"


def open_unified(folder: str) -> UnifiedPrior:
    """The unified prior in a folder; UserError for another kind."""
    prior = load_prior(folder)
    if not isinstance(prior, UnifiedPrior):
        raise UserError(f"prior={folder} is a prior of codes alone: give a unified one (model.kind=unified)")
    return prior


def drawn_texts(prior: UnifiedPrior, prompts: list[list[int]], first: int, settings: TextDrawing) -> list[str]:
    """The texts behind some prompts, those numbered from `first` on; a text's randomness is of its number.

    UserError for a prompt that leaves no room for a token.
    """
    room = prior.source.positions - max(map(len, prompts))
    if room < 1:
        raise UserError(f"a prompt of {max(map(len, prompts))} tokens fills {prior.source}: give a shorter one")
    numbers = [Picture(-1, first + number) for number in range(len(prompts))]
    uniform_BU = uniforms(settings.seed, numbers, min(settings.tokens, room))
    uniform_BU = uniform_BU.to(next(prior.parameters()).device)
    return [prior.vocabulary.decode_text(ids) for ids in prior.continued(uniform_BU, prompts, settings.drawing)]


def write(config: WriteConfig) -> Iterator[tuple[str, str]]:
    """Each text's beginning and what follows; those of one beginning one after the other."""
    prior = open_unified(config.prior)
    begun = [text for text in prompts_of(config.prompt, config.prompts) or [""] for _ in range(config.count)]
    prior.to(_device(), TYPES[config.precision])
    with ieee():
        for start in range(0, len(begun), config.batch_size):
            some = begun[start : start + config.batch_size]
            prompts = [to_write(prior.vocabulary, text) for text in some]
            yield from zip(some, drawn_texts(prior, prompts, start, config), strict=True)


def describe(config: DescribeConfig) -> Iterator[tuple[str, str]]:
    """Each sample's name and its caption; with config.out a folder of both and the samples."""
    prior = open_unified(config.prior)
    tokenizer = Tokenizer.from_pretrained(config.tokenizer).eval()
    over = prior.over_codes_of(tokenizer.code_fingerprint, "tokenizer", config.tokenizer)
    transform = tokenizer.transform
    assert transform is not None, "releases have one"
    prior.to(_device(), TYPES[config.precision])
    tokenizer.to(_device())
    described: list[dict[str, Any]] = []
    with new_folder(Path(config.out)) if config.out else nullcontext() as folder, ieee():
        for batch in given_samples(config.files, transform, config.limit, config.batch_size):
            captions = captions_of(prior, over, tokenizer, batch, len(described), config)
            if folder is not None:
                _save(folder, transform, tokenizer, batch, len(described))
            for name, caption, own in zip(batch.names, captions, batch.captions, strict=True):
                described.append({"name": name, "caption": caption, **({"text": own} if own else {})})
                yield name, caption
        if folder is not None:
            about = {"tokenizer": tokenizer.fingerprint, "prior_weights": weights_hash(prior)}
            settings = {"seed": config.seed, "tokens": config.tokens, "temperature": config.temperature}
            content = about | {"settings": settings, "samples": described}
            write_file(folder / CAPTIONS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@torch.inference_mode()
def captions_of(
    prior: UnifiedPrior,
    over: BlockPrior,
    tokenizer: Tokenizer,
    batch: GivenSamples,
    first: int,
    settings: TextDrawing,
) -> list[str]:
    """The captions of given samples, those numbered from `first` on. UserError for codes on another grid."""
    codes = tokenizer.encode(batch.x.to(next(tokenizer.parameters()).device))
    if tuple(codes.shape[1:]) != over.source.shape:
        raise UserError(f"samples with codes of shape {tuple(codes.shape[1:])} are not of the prior's {over.source}")
    return drawn_texts(prior, to_describe(prior.vocabulary, over.block, codes.flatten(1)), first, settings)


def _save(folder: Path, transform: Transform, tokenizer: Tokenizer, batch: GivenSamples, first: int) -> None:
    """Write samples as the tokenizer sees them."""
    kind = sample_kind(transform.kind)
    for number, sample in enumerate(kind.decoded(tokenizer, batch.x), first):
        sample.save(folder / f"{number:05d}{kind.suffix}")


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
