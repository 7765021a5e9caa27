"""One encoding: shards of pictures (or other samples) to shards of codes.

Shapes: B batch, C channels, H W pixels, h w latent grid, K codes; of sounds T stands for H W and h w."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from data.media import Transform
from data.reading.stream import every_sample
from data.remote.stores import without_secrets
from data.shards.bucket import set_writer
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.quarantine import quarantined
from data.shards.tally import Tally
from data.shards.writer import Sample, fit_key, free_key
from launch.command.cli import UserError
from launch.command.progress import Progress
from stage1_tokenizer import Tokenizer
from stage2_prior.codes.batch_size import batch_size
from stage2_prior.codes.crops import Variant, check_variants, reading, variants
from stage2_prior.codes.kinds import sample_kind
from stage2_prior.codes.shares import INDEX, NUMBERS, counted_bits, summary
from stage2_prior.codes.source import CodeSource, code_type
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.encoding import EncodeConfig


class Encoding:
    """One encoding of an index of pictures: its plan, its shards and its index.json."""

    def __init__(
        self,
        config: EncodeConfig,
        tokenizer: Tokenizer,
        transform: Transform,
        index: ShardIndex,
        whole: ShardIndex | None = None,
    ):
        """`index` are the pictures to encode; of one part of an encoding, `whole` are those of all parts."""
        self.config, self.tokenizer, self.transform, self.index = config, tokenizer, transform, index
        self.whole = Identity.of(whole or index)
        self.source = CodeSource.of_tokenizer(tokenizer, transform)
        classes, codebooks = tuple(index.classes), self.source.codebooks
        bits = counted_bits(tokenizer.codebook_size, tokenizer.config.quantizer.binary)
        self.vocabulary = Vocabulary(tokenizer.codebook_size, classes, codebooks=codebooks, factors=bits)
        self.kind = sample_kind(transform.kind)
        check_variants(transform, config.crops, config.flip)
        self.variants = variants(config.crops, config.flip)
        self.reading = reading(transform, config.crops, config.crop_range)
        self.out = set_writer(config.out)
        self.batch_size = config.batch_size or 0
        """Pictures encoded at once; 0 until `begin` has measured it."""
        self.names = [f"codes-{shard:06d}.tar" for shard in range(len(index.shards))]

    @property
    def about(self) -> dict[str, Any]:
        """Description of the codes, for the plan and index.json."""
        return {
            **self.source.to_dict(),
            "variants": [variant.name for variant in self.variants],
            **({"crop_range": self.config.crop_range} if self.config.crops > 1 else {}),
            "data": self.whole.brief(),
            **({"precision": self.config.precision} if self.config.precision != "fp32" else {}),
            **({"counted": "bits"} if self.vocabulary.factors else {}),
        }

    def begin(self) -> int:
        """Start or resume; the batch size. UserError if `out` holds something else."""
        if not self.batch_size:  # a resumed encoding keeps its batch size, as rounding depends on it
            known = self.out.unfinished_plan().get("batch_size")
            self.batch_size = known or batch_size(self.tokenizer, self.reading.sizes)
        plan = {**self.about, "pictures": self._pictures_planned(), "batch_size": self.batch_size}
        del plan["data"]  # which `pictures` say in full
        listed = [sorted(of) for of in quarantined([self.index])]
        if count := sum(map(len, listed)):
            plan["quarantine"] = f"{count} samples, {hashlib.sha256(str(listed).encode()).hexdigest()[:8]}"
        self.out.begin(plan, [INDEX], overwrite=self.config.overwrite)
        return self.batch_size

    def _pictures_planned(self) -> Any:
        """The pictures in the plan, as far as it is resumed; UserError if it is of other pictures.

        A plan from before the identity of data lists shards.
        """
        now, known = Identity.of(self.index), self.out.unfinished_plan().get("pictures")
        if known is None or self.config.overwrite:
            return now.to_dict()
        if isinstance(known, list):
            return [{"url": one.url, "nsamples": one.nsamples, "filesize": one.filesize} for one in self.index.shards]
        if words := now.difference(known):
            raise UserError(
                f"out={self.config.out} holds unfinished codes of other {self.kind.name}: {words}; choose another "
                "folder, or pass --overwrite true to start again"
            )
        return known

    def shard(self, shard: int, bar: Progress) -> None:
        """Encode one shard, unless it is complete."""
        notes: dict[str, Any] = {}
        self.out.write(self.names[shard], self._samples(shard, notes, bar), notes)

    def pictures(self, shard: int, batch_size: int) -> Iterator[Any]:
        """Batches of each sample of one shard once, in order."""
        return every_sample(self.index.only(shard), self.reading, batch_size=batch_size, threads=self.config.threads)

    def _samples(self, shard: int, notes: dict[str, Any], bar: Progress) -> Iterator[Sample]:
        histogram_K, captions = np.zeros(self.vocabulary.codes, dtype=np.int64), 0
        seen: set[str] = set()
        for batch in self.pictures(shard, self.batch_size):
            names = names_of(batch.keys, seen)
            for variant in self.variants:
                codes_Bhw = self.codes(batch, variant)
                histogram_K += self.vocabulary.counts(torch.from_numpy(codes_Bhw.astype(np.int64))).numpy()
                labels = batch.label_B.tolist()
                for name, label, text, codes_hw in zip(names, labels, batch.captions, codes_Bhw, strict=True):
                    self.vocabulary.check_label(label)
                    members = {"codes.npy": npy(codes_hw)} | ({"cls": str(label).encode()} if label >= 0 else {})
                    members |= {"txt": text.encode()} if text else {}
                    captions += bool(text)
                    yield name + variant.suffix, members
            bar.advance(len(batch.keys))
        notes["histogram"] = histogram_K.tolist()
        if captions:
            notes["captions"] = captions

    @torch.inference_mode()
    def codes(self, batch: Any, variant: Variant) -> np.ndarray:
        """Codes of a variant of some samples, codes_Bhw in the type in which they are stored."""
        x_BCHW = self.kind.input(batch, next(self.tokenizer.parameters()).device)
        codes_Bhw = self.tokenizer.encode(variant.of(x_BCHW, self.transform))
        return codes_Bhw.cpu().numpy().astype(code_type(self.vocabulary.codebook_size))

    def finish(self) -> None:
        """Write index.json, which completes the set."""
        self.out.refresh()
        records = [self.out.finished(name) for name in self.names]
        missing = [name for name, record in zip(self.names, records, strict=True) if record is None]
        if missing:
            raise UserError(f"out={self.config.out} has lost {missing[0]}: did another process delete it? Encode again")
        done = [record for record in records if record is not None]
        histogram_K = np.sum([record.notes["histogram"] for record in done], axis=0)
        captions = sum(record.notes.get("captions", 0) for record in done)
        index = self.out.index(
            done,
            name=self.whole.name,
            classes=self.index.classes,
            licence=self.index.licence,
            kind="codes",
            meta={
                **self.about,
                **({"captions": captions} if captions else {}),
                **summary(histogram_K, bits=bool(self.vocabulary.factors)),
                "histogram": histogram_K.tolist(),
            },
        )
        if NUMBERS in self.index.meta:
            index.meta[NUMBERS] = self.index.meta[NUMBERS]
        tally = self._tally([record.nsamples // len(self.variants) for record in done])
        tally.took("captions", captions // len(self.variants))
        warnings = tally.settle(self.config.allow_left_out)
        self.out.finish({INDEX: index})
        print(*tally.lines(), *warnings, sep="\n", flush=True)

    def _tally(self, encoded: Sequence[int]) -> Tally:
        """What was encoded of each shard, and which pictures have no codes."""
        tally = Tally()
        for shard, count, listed in zip(self.index.shards, encoded, quarantined([self.index]), strict=True):
            tally.took(self.kind.name, count)
            for number, why in listed.items():
                tally.ignored(f"in the quarantine list ({why})", f"{without_secrets(shard.url)} sample {number}")
            if (damaged := shard.nsamples - count - len(listed)) > 0:
                tally.left_out("damaged, see the warnings above", without_secrets(shard.url), count=damaged)
        return tally


def names_of(keys: Sequence[str], seen: set[str]) -> list[str]:
    """The samples' keys in their code shard, after those `seen` in it: in tars of other tools keys may have dots, or
    occur twice."""
    names = []
    for key in map(fit_key, keys):
        names.append(free_key(key, seen, len(seen)))
        seen.add(names[-1])
    return names


def npy(array: np.ndarray) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
