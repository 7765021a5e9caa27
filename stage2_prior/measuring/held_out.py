"""Bits per code and accuracy on held-out codes. Shapes: B batch, N codes of a picture."""

import math

import torch

from data.reading.stream import every_code
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.ranks.joined import Ranks
from stage1_tokenizer.layers.precision import Precision, ieee
from stage2_prior.codes.matching import matched
from stage2_prior.priors.base import Prior


@ieee()
@torch.no_grad()
def held_out_figures(
    prior: Prior,
    index: ShardIndex | str,
    ranks: Ranks | None = None,
    batch_size: int = 64,
    key: str = "codes",
    precision: Precision = "fp32",
) -> dict[str, float]:
    """The prior's bits_per_code and accuracy over every code of an index, each once over all ranks.

    With precision=bf16 matrices are multiplied in bfloat16; logits and losses are float32.
    UserError unless they are codes that the prior can read (`matched`); `key` is the setting that names them.
    All ranks call the prior equally often, as sharded weights are gathered in each call: a rank that has run out of
    codes passes a spare sample and doesn't count it.
    """
    index = matched(
        index if isinstance(index, ShardIndex) else load_index(index),
        prior.source,
        prior.condition.name,
        prior.vocabulary.classes,
        key,
    )
    rank, world_size, device = (ranks.rank, ranks.world_size, ranks.device) if ranks else (0, 1, None)
    device = device or next(prior.parameters()).device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    batches = every_code(index, batch_size=batch_size, rank=rank, world_size=world_size)
    batch, spare = next(batches, None), next(every_code(index, batch_size=1))
    while ranks.vote.any(batch is not None) if ranks else batch is not None:
        shown = batch or spare
        code_BN = shown.idx_Bhw.flatten(1).to(device)
        token_B = prior.condition.of_batch(shown).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            nats_BN, right_BN = prior.score(code_BN, token_B)
        if batch is not None:
            sums += torch.stack([nats_BN.double().sum(), right_BN.double().sum(), sums.new_full((), code_BN.numel())])
        if ranks:
            ranks.heartbeat()
        batch = next(batches, None)
    nats, right_codes, count = (ranks.sum(sums) if ranks else sums).tolist()
    return {"bits_per_code": nats / max(count, 1) / math.log(2), "accuracy": right_codes / max(count, 1)}
