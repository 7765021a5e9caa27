"""Encode pictures: `accelerate launch -m stage2_prior.encode --tokenizer DIR --data INDEX.json --out DIR`.

A shard of codes for each shard of pictures, every sample exactly once whatever the number of ranks, each shard whole or
absent, to the same bytes after any interruption. Labels and captions come along. index.json's `meta` ties them to the
tokenizer:

    tokenizer      its fingerprint
    transform      what was done to the pictures
    codebook_size  K
    grid           [h, w]
    shape          of one sample's codes, where it isn't the grid's: [G, h, w] of several codebooks, [N] of all scales
    codebooks      G, and
    scales         the sides of the scales' grids, where there is a shape
    variants       ["plain"], or names of what is encoded of each picture (stage2_prior.codes.crops)
    captions       how many samples have one, where any has
    histogram      how often each code occurs, K numbers (of each codebook); used and perplexity say it in short

Shapes: B batch, C channels, H W pixels, h w latent grid, K codes.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.pictures.transforms import to_float
from data.reading.stream import Batch, every_sample
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from data.shards.locations import is_remote
from data.shards.offsets import ShardOffsets
from data.shards.writer import Sample, ShardWriter
from launch.command.cli import UserError, parse, run
from launch.command.progress import Progress
from launch.ranks.joined import joined
from stage2_prior.codes.batch_size import batch_size
from stage2_prior.codes.check import verify
from stage2_prior.codes.crops import Variant, reading, variants
from stage2_prior.codes.shares import INDEX, NUMBERS, part_folder, shards_of, share
from stage2_prior.codes.source import CodeSource, code_type
from stage2_prior.codes.vocabulary import Vocabulary

if TYPE_CHECKING:
    from data.pictures.transforms import TransformConfig
    from stage1_tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Turn shards of pictures into shards of a tokenizer's codes."""

    tokenizer: str
    """A released tokenizer's folder."""
    data: str
    """Index of the pictures."""
    out: str
    """Folder for the code shards and index.json; an interrupted encoding there is continued."""
    flip: bool = False
    """Also encode every picture (or crop) mirrored, as a sample of its own (its key ends in -flip)."""
    crops: int = 1
    """1: the picture as it is; 5: its four corners and its middle, samples of their own. 5 with flip is ten-crop."""
    crop_range: float = 1.1
    """With crops=5: how much larger than a crop the picture is read."""
    verify: int = 0
    """Compare so many pictures' codes with a fresh encoding at the end, and show them decoded in OUT/verify.png."""
    batch_size: int | None = None
    """Pictures encoded at once on each rank; null: what fits on the GPU, found by trying, and 64 on CPUs."""
    threads: int = 2
    """Reading and decoding threads of each rank."""
    overwrite: bool = False
    """Replace a finished set of codes in `out`."""
    part: int = 0
    """Which of `parts` this is, from 0."""
    parts: int = 1
    """Share the shards out to so many jobs; each writes a folder of its own in `out`, and stage2_prior.codes.shares
    joins."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} is too small: set it to 1 or more")
        if self.crops not in (1, 5):
            raise ValueError(f"crops={self.crops} is neither 1 nor 5: set 1 for the picture, 5 for corners and middle")
        if self.crop_range < 1 or self.verify < 0:
            raise ValueError(f"crop_range={self.crop_range} must be 1 or more, verify={self.verify} 0 or more")
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part={self.part} is none of parts={self.parts}: count from 0 to {self.parts - 1}")


class Encoding:
    """One encoding: which shards become which, and what is known about the codes."""

    def __init__(self, config: EncodeConfig, tokenizer: Tokenizer, transform: TransformConfig, index: ShardIndex):
        self.config, self.tokenizer, self.transform, self.index = config, tokenizer, transform, index
        self.source = CodeSource.of_tokenizer(tokenizer, transform)
        classes, codebooks = tuple(index.classes), self.source.codebooks
        self.vocabulary = Vocabulary(tokenizer.codebook_size, classes, codebooks=codebooks)
        self.variants = variants(config.crops, config.flip)
        self.reading = reading(transform, config.crops, config.crop_range)
        if config.crops > 1 and transform.fit != "crop":
            raise UserError(f"crops={config.crops} needs a tokenizer whose transform has fit=crop, not {transform.fit}")
        self.out = ShardWriter(config.out)
        self.batch_size = config.batch_size or 0
        """Pictures at once; 0 until `begin` has found out."""
        self.names = [f"codes-{shard:06d}.tar" for shard in range(len(index.shards))]

    @property
    def about(self) -> dict[str, Any]:
        """What the codes are, for the plan and for index.json."""
        return {
            **self.source.to_dict(),
            "variants": [variant.name for variant in self.variants],
            **({"crop_range": self.config.crop_range} if self.config.crops > 1 else {}),
        }

    def begin(self) -> int:
        """Start or go on; how many pictures come at once. UserError where something else lies in `out`."""
        if not self.batch_size:  # an interrupted encoding keeps the number it found, or codes might differ in rounding
            known = self.out.unfinished_plan().get("batch_size")
            self.batch_size = known or batch_size(self.tokenizer, self.reading.size)
        pictures = [asdict(shard) for shard in self.index.shards]
        plan = {**self.about, "pictures": pictures, "batch_size": self.batch_size}
        self.out.begin(plan, [INDEX], overwrite=self.config.overwrite)
        return self.batch_size

    def shard(self, shard: int, bar: Progress) -> None:
        """Encode one shard, unless it is there."""
        notes: dict[str, Any] = {}
        self.out.write(self.names[shard], self._samples(shard, notes, bar), notes)

    def _samples(self, shard: int, notes: dict[str, Any], bar: Progress) -> Iterator[Sample]:
        histogram_K, captions = np.zeros(self.vocabulary.codes, dtype=np.int64), 0
        for batch in one_shard(self.index, shard, self.reading, self.batch_size, self.config.threads):
            for variant in self.variants:
                codes_Bhw = self.codes(batch, variant)
                histogram_K += np.bincount(self.tokens(codes_Bhw).ravel(), minlength=len(histogram_K))
                labels = batch.label_B.tolist()
                for key, label, text, codes_hw in zip(batch.keys, labels, batch.captions, codes_Bhw, strict=True):
                    self.vocabulary.check_labels([label])
                    members = {"codes.npy": npy(codes_hw)} | ({"cls": str(label).encode()} if label >= 0 else {})
                    members |= {"txt": text.encode()} if text else {}
                    captions += bool(text)
                    yield key + variant.suffix, members
            bar.advance(len(batch.keys))
        notes["histogram"] = histogram_K.tolist()
        if captions:
            notes["captions"] = captions

    @torch.inference_mode()
    def codes(self, batch: Batch, variant: Variant) -> np.ndarray:
        """Codes of a batch of pictures as a variant shows them, codes_Bhw in the type they are stored in."""
        x_BCHW = to_float(batch.pixels_BCHW.to(next(self.tokenizer.parameters()).device))
        codes_Bhw = self.tokenizer.encode(variant.of(x_BCHW, self.transform.size))
        return codes_Bhw.cpu().numpy().astype(code_type(self.vocabulary.codebook_size))

    def tokens(self, codes_Bhw: np.ndarray) -> np.ndarray:
        """Codes as token ids, which tell the codebooks apart."""
        if self.source.codebooks == 1:
            return codes_Bhw
        return codes_Bhw.astype(np.int64) + np.array(self.vocabulary.first_tokens)[:, None, None]

    def finish(self) -> None:
        """Write index.json, which makes the set complete."""
        records = [self.out.finished(name) for name in self.names]
        missing = [name for name, record in zip(self.names, records, strict=True) if record is None]
        if missing:
            raise UserError(
                f"out={self.config.out} lacks {missing[0]} again: did another process delete it? Start anew"
            )
        done = [record for record in records if record is not None]
        histogram_K = np.sum([record.notes["histogram"] for record in done], axis=0)
        captions = sum(record.notes.get("captions", 0) for record in done)
        index = self.out.index(
            done,
            name=self.index.name,
            classes=self.index.classes,
            licence=self.index.licence,
            kind="codes",
            meta={
                **self.about,
                **({"captions": captions} if captions else {}),
                **summary(histogram_K),
                "histogram": histogram_K.tolist(),
            },
        )
        if NUMBERS in self.index.meta:
            index.meta[NUMBERS] = self.index.meta[NUMBERS]
        expected = len(self.index) * len(self.variants)
        if len(index) != expected:
            print(f"warning: {expected - len(index)} of {expected} pictures are damaged and have no codes", flush=True)
        self.out.finish({INDEX: index})


def one_shard(
    index: ShardIndex, shard: int, transform: TransformConfig, batch_size: int, threads: int
) -> Iterator[Batch]:
    """Each picture of one shard once, in order: `every_sample` on an index of that shard alone."""
    location = index.location(shard)
    url = location if is_remote(location) else str(Path(location).absolute())
    offsets = ShardOffsets.from_starts([index.offsets.of_shard(shard).tolist()]) if index.offsets is not None else None
    alone = replace(index, shards=(replace(index.shards[shard], url=url),), offsets=offsets)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / INDEX
        alone.save(path)
        yield from every_sample(str(path), transform, batch_size=batch_size, threads=threads)


def npy(array: np.ndarray) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def summary(histogram_K: np.ndarray) -> dict[str, float]:
    """Share of the codes that occur at all, and the perplexity of their distribution (K if all are alike frequent)."""
    share_K = histogram_K / max(1, histogram_K.sum())
    present = share_K[share_K > 0]
    entropy = float(-(present * np.log(present)).sum())
    return {"used": float((histogram_K > 0).mean()), "perplexity": float(np.exp(entropy))}


def encode(config: EncodeConfig) -> int:
    """Encode as configured, on all ranks; the exit code."""
    from launch.ranks.vote import Vote, on_main
    from stage1_tokenizer import Tokenizer

    index = load_index(config.data)
    if config.parts > 1:
        index = share(index, config.part, config.parts)
        config = replace(config, out=part_folder(config.out, config.part, config.parts))
    tokenizer = Tokenizer.from_pretrained(config.tokenizer).eval()
    if not tokenizer.codebook_size or tokenizer.transform is None:
        raise UserError(
            f"tokenizer={config.tokenizer} has no codes or no preprocessor_config.json: release one that has"
        )
    encoding = Encoding(config, tokenizer, tokenizer.transform, index)
    with joined() as accelerator:
        tokenizer.to(accelerator.device)
        found = on_main(accelerator, encoding.begin)
        encoding.batch_size = Vote(accelerator.num_processes, accelerator.device).broadcast(found)
        mine = shards_of(accelerator.process_index, accelerator.num_processes, index.sizes)
        todo = [shard for shard in mine if encoding.out.finished(encoding.names[shard]) is None]
        total = sum(index.sizes[shard] for shard in todo)
        with Progress("encode", total, unit="pictures", enabled=accelerator.is_main_process) as bar:
            for shard in todo:
                encoding.shard(shard, bar)
        accelerator.wait_for_everyone()
        on_main(accelerator, encoding.finish)
        if config.verify:
            on_main(accelerator, lambda: print(verify(encoding, config.verify), flush=True))
    return 0


def main() -> int:
    """The command."""
    return encode(parse(EncodeConfig, prog="python -m stage2_prior.encode"))


if __name__ == "__main__":
    run(main)
