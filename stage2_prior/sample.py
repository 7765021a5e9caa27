"""Sample pictures: `accelerate launch -m stage2_prior.sample --prior RUN --tokenizer DIR --out OUT --count 10 …`.

OUT/<class>/<number>.png   the pictures, `count` of each class (or prompt); of sounds .flac, and .png with spectrograms;
                           of videos .webp, animated, and .png with a strip of frames
OUT/codes/<batch>.npy      their codes, uint16 or uint32 (B, h, w) or in the tokenizer's form, once a batch is complete
OUT/grid.png               a row for each class (or prompt); of videos also grid.webp, where they move
OUT/samples.json           settings, tokenizer, classes and their folders, order of the pictures in the batches

A picture's randomness is a function of (seed, class, number), and the batches don't depend on the ranks, so that any
number of ranks gives the same pictures, also after an interruption.
"""

import time
from collections.abc import Callable
from typing import Any

from launch.command.cli import UserError, parse, run
from stage2_prior.config.sampling import SampleConfig


def sample(config: SampleConfig, subjects_of: Callable[[Any, Any], Any] | None = None) -> int:
    """Sample as configured, on all ranks; the exit code.

    `subjects_of` gives the Subjects of a prior and a tokenizer, instead of the configured ones.
    """
    import torch

    from launch.command.progress import Progress
    from launch.files.outputs import try_folder
    from launch.ranks.joined import joined
    from launch.ranks.vote import on_main
    from stage1_tokenizer import Tokenizer
    from stage1_tokenizer.layers.precision import TYPES, ieee
    from stage2_prior.priors.build import load_prior
    from stage2_prior.sampling.conditions import requested
    from stage2_prior.sampling.pictures import Sampling
    from stage2_prior.sampling.writing import Writers, as_decoder

    if not config.dry_run:
        try_folder("out", config.out)
    prior = load_prior(config.prior, text_encoder=config.text_encoder)
    if config.compile and not (prior.one_by_one and torch.cuda.is_available()):
        raise UserError(
            f"compile=true is for autoregressive, depth and delay priors on CUDA GPUs, but the prior is "
            f"{prior.kind} and there are {torch.cuda.device_count()} GPUs: leave it false"
        )
    tokenizer = Tokenizer.from_pretrained(config.tokenizer).eval()
    prior = prior.over_codes_of(tokenizer.code_fingerprint, "tokenizer", config.tokenizer)
    prior.compiled_steps = config.compile
    subjects = subjects_of(prior, tokenizer) if subjects_of else requested(config, prior)
    sampling = Sampling(config, prior, subjects, tokenizer.fingerprint)
    if config.dry_run:
        print(sampling.plan())
        return 0
    with joined() as accelerator, ieee():
        on_main(accelerator, sampling.begin)
        prior.to(accelerator.device, TYPES[config.precision])
        decoder = as_decoder(tokenizer.to(accelerator.device), accelerator.device, config.precision)
        todo = sampling.missing(config.part, config.parts)
        accelerator.wait_for_everyone()  # all ranks have listed what is missing before any of them writes
        began, rank, ranks = time.monotonic(), accelerator.process_index, accelerator.num_processes
        total = sum(len(sampling.batches[batch]) for batch in todo)
        progress = Progress("sample", total, unit=sampling.kind.name, enabled=accelerator.is_main_process)
        overlap = sampling.sliding.overlap if sampling.sliding else 0
        with progress as bar, Writers(decoder, config.decode_batch, accelerator.device, overlap) as writers:
            for turn in range(0, len(todo), ranks):
                for batch in todo[turn + rank : turn + rank + 1]:
                    sampling.draw(batch, writers)
                bar.advance(sum(len(sampling.batches[batch]) for batch in todo[turn : turn + ranks]))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process and config.parts == 1:
            sampling.finish(time.monotonic() - began, total)
    return 0


def main() -> int:
    """The command."""
    return sample(parse(SampleConfig, prog="python -m stage2_prior.sample"))


if __name__ == "__main__":
    run(main)
