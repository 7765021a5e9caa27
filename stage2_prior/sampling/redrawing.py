"""Stored codes drawn again by a prior, shard by shard: what a decoder gets to see when the prior is used.

Shapes: B batch, N codes of a sample, U random numbers that drawing takes, h w their grid, K codes."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.codes.batches import CodeBatch
from data.reading.stream import every_code
from data.shards.bucket import set_writer
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.writer import Sample
from launch.command.cli import UserError
from launch.command.progress import Progress
from launch.ranks.transfer import to_device
from stage2_prior.codes.encoding import npy
from stage2_prior.codes.matching import matched
from stage2_prior.codes.shares import INDEX, NUMBERS, counted_bits, summary
from stage2_prior.codes.source import code_type
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.redrawing import RedrawConfig
from stage2_prior.priors.base import Prior, weights_hash
from stage2_prior.priors.bits import check_drawing

OWN = ("variants", "crop_range", "captions", "histogram", "used", "perplexity", "precision", NUMBERS)
"""Meta of the stored codes that the redrawn ones don't take over."""


class Stored(NamedTuple):
    """One sample of a code shard."""

    key: str
    label: int
    caption: str
    idx_hw: Tensor


class Redrawing:
    """One redrawing of an index of codes: its plan, its shards and its index.json."""

    def __init__(self, config: RedrawConfig, prior: Prior, index: ShardIndex, whole: ShardIndex):
        """`index` are the codes to redraw; of one part, `whole` are those of all parts. UserError for codes that the
        prior isn't over, or of crops only."""
        self.config, self.prior, self.weights = config, prior, weights_hash(prior)
        names, condition = prior.vocabulary.classes, prior.condition
        self.index = matched(index, prior.source, condition.name, names, "codes")
        self.whole = Identity.of(whole)
        check_drawing(prior, config)
        size, binary = prior.source.codebook_size, "counted" in index.meta
        self.counted = Vocabulary(size, codebooks=prior.source.codebooks, factors=counted_bits(size, binary))
        if config.guidance != 1 and not (names or condition.texts):
            raise UserError(f"guidance={config.guidance:g} needs {condition.what}, and there are none: leave it at 1")
        variants = index.meta.get("variants", ["plain"])
        if "plain" not in variants:
            raise UserError(f"codes={config.codes} are of crops only: encode the {prior.source.kind} without --crops")
        self.left_out = tuple(f"-{name}" for name in variants if name != "plain")
        self.numbers = index.meta.get(NUMBERS, range(len(index.shards)))
        self.names = [f"codes-{shard:06d}.tar" for shard in range(len(index.shards))]
        self.out = set_writer(config.out)

    @property
    def about(self) -> dict[str, Any]:
        """Description of the codes, for the plan and index.json: that of the stored ones, and how they were redrawn."""
        drawing = {field.name: getattr(self.config, field.name) for field in fields(Drawing)}
        usual = asdict(Drawing())
        how = {
            "prior_weights": self.weights,
            "true_share": self.config.true_share,
            "seed": self.config.seed,
            "precision": self.config.precision,
            "drawing": {name: value for name, value in drawing.items() if value != usual[name]},
            "codes": self.whole.digest,
        }
        kept = {key: value for key, value in self.index.meta.items() if key not in OWN}
        return {**kept, "variants": ["plain"], "redrawn": how}

    def begin(self) -> None:
        """Start or resume; UserError if `out` holds something else."""
        part = {NUMBERS: list(self.numbers)} if self.config.parts > 1 else {}
        plan = {**self.about, **part, "batch_size": self.config.batch_size}
        self.out.begin(plan, [INDEX], overwrite=self.config.overwrite)

    def shard(self, shard: int, bar: Progress) -> None:
        """Redraw one shard, unless it is complete."""
        notes: dict[str, Any] = {}
        self.out.write(self.names[shard], self._samples(shard, notes, bar), notes)

    def _samples(self, shard: int, notes: dict[str, Any], bar: Progress) -> Iterator[Sample]:
        histogram_K, captions, changed = np.zeros(self.counted.codes, dtype=np.int64), 0, 0
        kind = code_type(self.prior.vocabulary.codebook_size)
        for rows in self._batches(shard):
            idx_Bhw = self.draw(rows, self.numbers[shard])
            histogram_K += self.counted.counts(idx_Bhw).numpy()
            for row, idx_hw in zip(rows, idx_Bhw, strict=True):
                changed += int((idx_hw != row.idx_hw).sum())
                members = {"codes.npy": npy(idx_hw.numpy().astype(kind))}
                members |= {"cls": str(row.label).encode()} if row.label >= 0 else {}
                members |= {"txt": row.caption.encode()} if row.caption else {}
                captions += bool(row.caption)
                yield row.key, members
            bar.advance(len(rows))
        notes |= {"histogram": histogram_K.tolist(), "captions": captions, "changed": changed}

    def _batches(self, shard: int) -> Iterator[list[Stored]]:
        """The samples of a shard, as many as are drawn at once."""
        rows: list[Stored] = []
        for batch in every_code(self.index.only(shard), batch_size=self.config.batch_size):
            each = zip(batch.keys, batch.label_B.tolist(), batch.captions, batch.idx_Bhw, strict=True)
            rows += [Stored(*one) for one in each if not (self.left_out and one[0].endswith(self.left_out))]
            while len(rows) >= self.config.batch_size:
                yield rows[: self.config.batch_size]
                del rows[: self.config.batch_size]
        if rows:
            yield rows

    @torch.inference_mode()
    def draw(self, rows: Sequence[Stored], shard: int) -> Tensor:
        """New codes of some samples of a shard (its number in the whole set), idx_Bhw on the CPU.

        The batch is padded to the full size, as rounding depends on it.
        """
        config, prior, count = self.config, self.prior, len(rows)
        padded = [rows[number % count] for number in range(config.batch_size)]
        keys, labels, captions, codes = (list(column) for column in zip(*padded, strict=True))
        code_BN = torch.stack(codes).flatten(1)
        batch = CodeBatch(0, code_BN, torch.tensor(labels), keys, captions)
        own, positions = prior.draws(config), prior.source.positions
        uniform_BX = torch.stack([uniform_numbers(config.seed, shard, key, own + positions) for key in keys])
        uniform_BU, kept_BN = uniform_BX[:, :own], uniform_BX[:, own:] < config.true_share
        given_BN = torch.where(kept_BN, code_BN, -1)
        device = next(prior.parameters()).device
        token_B, uniform_BU, given_BN = (
            to_device(x, device) for x in (prior.condition.of_batch(batch), uniform_BU.contiguous(), given_BN)
        )
        return prior.sample(token_B, uniform_BU, config, given_BN)[:count].unflatten(1, prior.source.shape).cpu()

    def finish(self) -> None:
        """Write index.json, which completes the set."""
        self.out.refresh()
        records = [self.out.finished(name) for name in self.names]
        done = [record for record in records if record is not None]
        if len(done) < len(records):
            raise UserError(f"out={self.config.out} has lost a shard: did another process delete it? Redraw again")
        histogram_K = np.sum([record.notes["histogram"] for record in done], axis=0)
        captions, changed = (sum(record.notes[name] for record in done) for name in ("captions", "changed"))
        meta = {
            **self.about,
            **({NUMBERS: list(self.numbers)} if self.config.parts > 1 else {}),
            **({"captions": captions} if captions else {}),
            **summary(histogram_K, bits=bool(self.counted.factors)),
            "histogram": histogram_K.tolist(),
        }
        index = self.out.index(
            done,
            name=self.whole.name,
            classes=self.index.classes,
            licence=self.index.licence,
            kind="codes",
            meta=meta,
        )
        self.out.finish({INDEX: index})
        total = max(1, len(index) * self.prior.source.positions)
        left = len(self.index) - len(index)
        print(
            f"redrawn: {len(index)} samples, {changed / total:.1%} of their codes are others now"
            + (f"; left out: {left} crops and mirror images" if left else ""),
            flush=True,
        )


def uniform_numbers(seed: int, shard: int, key: str, count: int) -> Tensor:
    """All randomness of one sample, float32 in [0, 1): a function of the seed, its shard's number and its key."""
    digest = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=16).digest(), "<u4")
    words = np.random.SeedSequence([seed, shard, *map(int, digest)])
    return torch.from_numpy(np.random.Generator(np.random.Philox(words)).random(count, dtype=np.float32))
