"""An evaluation of a unified prior: over which codes it is measured, and its figures both ways."""

import json
from pathlib import Path

from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.command.cli import UserError
from launch.ranks.joined import Ranks
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.measuring.evaluation import Evaluation
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.measuring.both_ways import BothWays, text_figures
from stage2_prior.priors.of_block import BlockPrior
from stage2_prior.priors.unified import UnifiedPrior

TEXTS = "texts"


def over_measured(config: EvaluateConfig, prior: UnifiedPrior) -> BlockPrior | None:
    """The prior over the codes that are measured: those of `codes`, else of `tokenizer`, else of `samples`.

    None for a set of texts. UserError where nothing says which codes, and for codes of another tokenizer.
    """
    if config.codes:
        index = load_index(config.codes)
        if index.kind == TEXTS:
            if config.samples or config.tokenizer:
                raise UserError(f"codes={config.codes} are texts: leave out samples and tokenizer, or give codes")
            return None
        source = CodeSource.of_index(index, config.codes, "codes")
        return prior.over_codes_of(source.tokenizer, "codes", config.codes)
    if config.tokenizer:
        fingerprint = Tokenizer.from_pretrained(config.tokenizer).code_fingerprint
        return prior.over_codes_of(fingerprint, "tokenizer", config.tokenizer)
    described = Path(str(config.samples)) / "samples.json"
    if not described.is_file():
        raise UserError("a unified prior is over codes of several tokenizers: set tokenizer or codes to say of which")
    return prior.over_codes_of(json.loads(described.read_text())["tokenizer"], "samples", str(config.samples))


def add_both_ways(
    config: EvaluateConfig, prior: UnifiedPrior, over: BlockPrior | None, ranks: Ranks, evaluation: Evaluation
) -> None:
    """Add the figures of texts with codes, and of codes with texts; of a set of texts those of texts alone."""
    if not config.codes:
        return
    index = load_index(config.codes)
    prior.to(ranks.device)
    if over is None:
        evaluation.add(text_figures(prior, index, ranks, config.batch_size), texts=_described(index))
        return
    both = BothWays(prior, over, index, ranks, config.batch_size)
    evaluation.add(both.figures(config.captions, config.retrieval))


def _described(index: ShardIndex) -> dict[str, object]:
    identity = Identity.of(index)
    return {"set": identity.brief(), "digest": identity.digest, "count": len(index)}
