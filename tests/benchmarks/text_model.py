"""A language model trained from packed text by stage2_prior.train, beside transformers' own Trainer.

    python -m tests.benchmarks.text_model [--steps 300] [--out results.json]

Both train the same Llama from the same first weights on the sample set `prose` (training chapters), with the same
AdamW, schedule and clipping, and see as many tokens a step on average. The chapters are cut into texts of LONGEST bytes
first, so that a step's texts are of many chapters for both. The Trainer's rows are the same documents, one to a row, in
an order of its own. Bits per byte are of the held-out chapters, by the stock model's own loss.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments, set_seed

from data.config import CodeDataConfig
from data.pack import PackConfig, pack
from data.shards.loading import load_index
from data.texts.config import TextConvertConfig
from launch.config import RunConfig
from launch.run.seeding import seed_step
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.training import PriorOptimizerConfig, PriorTrainConfig
from stage2_prior.config.unified import UnifiedConfig
from stage2_prior.priors.build import load_prior
from stage2_prior.priors.unified import UnifiedPrior
from stage2_prior.text_tokenizer import TextTokenizerConfig, text_tokenizer
from stage2_prior.train import train
from stage2_prior.training.unified import UnifiedSets
from stage2_prior.unified.segments import Document
from stage2_prior.unified.stream import documents_of, every_unified
from stage2_prior.unified.text_training import every_text

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples"
LENGTH, LONGEST, TEXTS = 128, 300, 24
"""Tokens of a row, bytes of a text at most, and texts of a step."""
RATE, WARMUP = 3e-3, 20


def settings(place: Path, steps: int) -> PriorTrainConfig:
    """Our training; what the Trainer has no word for is off."""
    return PriorTrainConfig(
        run=RunConfig(folder=str(place / "run"), trackers=[], log_every=50, save_every=10**6),
        data=CodeDataConfig(index=str(place / "texts" / "train.json"), batch_size=TEXTS),
        model=PriorModelConfig(
            kind="unified",
            layers=2,
            width=96,
            heads=4,
            unified=UnifiedConfig(text_tokenizer=str(place / "tokenizer.json"), length=LENGTH),
        ),
        optimizer=PriorOptimizerConfig(
            learning_rate=RATE, warmup=WARMUP, final=0.0, weight_decay=0.0, clip=1.0, ema_decay=0.0
        ),
        steps=steps,
    )


def cut(place: Path) -> str:
    """The chapters' texts, packed again as short ones; the index of the training ones."""
    for name in ("train", "held_out"):
        texts = every_text([load_index(str(SAMPLES / "prose" / f"{name}.json"))])
        (place / "chapters" / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    short = TextConvertConfig(longest=LONGEST)
    pack(PackConfig(source=str(place / "chapters"), out=str(place / "texts"), kind="texts", text=short))
    return str(place / "texts" / "train.json")


def documents(prior: UnifiedPrior, place: Path, name: str) -> list[Document]:
    """Every text of a split, in documents that fit a row."""
    index, found = load_index(str(place / "texts" / f"{name}.json")), []
    for _, samples in every_unified(index, prior.vocabulary):
        for segments in samples:
            found += documents_of(prior.vocabulary, segments, LENGTH)
    return found


def row(document: Document) -> dict[str, Tensor]:
    """A document as transformers reads it."""
    token_T, kind_T = torch.from_numpy(document.token_T), torch.from_numpy(document.kind_T)
    left = LENGTH - len(token_T)
    label_T = torch.where(kind_T >= 0, token_T, -100)
    return {
        "input_ids": torch.cat([token_T, token_T.new_zeros(left)]),
        "attention_mask": torch.cat([torch.ones_like(token_T), token_T.new_zeros(left)]),
        "labels": torch.cat([label_T, label_T.new_full((left,), -100)]),
    }


def by_trainer(prior: UnifiedPrior, place: Path, steps: int, seed: int) -> Any:
    """The stock model after as many steps of transformers' Trainer."""
    rows = [row(document) for document in documents(prior, place, "train")]
    set_seed(seed)
    arguments = TrainingArguments(
        output_dir=str(place / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=TEXTS,
        learning_rate=RATE,
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        seed=seed,
    )
    Trainer(model=prior.lm, args=arguments, train_dataset=rows).train()
    return prior.lm


@torch.no_grad()
def bits_per_byte(lm: Any, held_out: list[Document]) -> float:
    """-log2 p of all held-out tokens, by the stock model, over the bytes of the texts."""
    lm.eval()
    nats = 0.0
    for first in range(0, len(held_out), 32):
        rows = [row(document) for document in held_out[first : first + 32]]
        batch = {name: torch.stack([one[name] for one in rows]) for name in rows[0]}
        count = int((batch["labels"][:, 1:] >= 0).sum())
        nats += float(lm(**batch).loss) * count
    return nats / sum(document.size for document in held_out) / math.log(2)


def main() -> None:
    """Train both and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "chapters").mkdir()
        text_tokenizer(TextTokenizerConfig(data=[cut(place)], out=str(place / "tokenizer.json"), size=1024))
        config = settings(place, asked.steps)
        config = replace(config, run=replace(config.run, seed=asked.seed))
        sets = UnifiedSets.opened(config)
        seed_step(asked.seed, 0, 0)  # as a run begins
        begun = sets.fresh(config)
        held_out = documents(begun, place, "held_out")
        found: dict[str, float] = {"untrained": bits_per_byte(begun.lm, held_out)}
        began = time.monotonic()
        stock = by_trainer(begun.train(), place, asked.steps, asked.seed)
        found |= {"trainer_seconds": time.monotonic() - began, "trainer": bits_per_byte(stock, held_out)}
        began = time.monotonic()
        train(config)
        found["vqloom_seconds"] = time.monotonic() - began
        prior = load_prior(place / "run")
        found |= {"vqloom": bits_per_byte(prior.lm, held_out)}
        found["ratio"] = found["vqloom"] / found["trainer"]
    print(json.dumps(found, indent=1))
    if asked.out:
        Path(asked.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
