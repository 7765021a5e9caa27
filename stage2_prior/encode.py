"""Encode pictures or sounds: `accelerate launch -m stage2_prior.encode --tokenizer DIR --data INDEX.json --out DIR`.

Writes a shard of codes for each shard of pictures, every sample exactly once on any number of ranks, and the same bytes
after any interruption. Labels and captions are kept. index.json's `meta` ties the codes to the tokenizer:

    tokenizer      its fingerprint
    transform      how the samples were prepared
    codebook_size  K
    grid           [h, w], of sounds [T]
    shape          of one sample's codes, if it isn't the grid: [G, h, w] for several codebooks, [N] for several scales
    codebooks      G, and
    scales         sides of the scales' grids, if there is a shape
    data           which samples: name, samples, classes and digest of their set
    variants       ["plain"], or the crops and mirror images of each picture (stage2_prior.codes.crops)
    precision      arithmetic of the tokenizer, if it isn't fp32
    captions       number of samples with a caption, if any
    histogram      how often each code occurs, K numbers (per codebook); used and perplexity summarise it
    counted        "bits" where the histogram is of bits, a number of zeros and of ones for each: of more than 65,536
                   codes of lfq, bsq or fsq with 2 levels

Shapes: B batch, C channels, H W pixels, h w latent grid, K codes.
"""

from dataclasses import replace

from launch.command.cli import UserError, parse, run
from stage2_prior.config.encoding import EncodeConfig


def encode(config: EncodeConfig) -> int:
    """Encode as configured, on all ranks; the exit code."""
    from data.shards.loading import load_index
    from launch.command.progress import Progress
    from launch.files.outputs import try_folder
    from launch.ranks.joined import joined
    from launch.ranks.vote import Vote, on_main
    from stage1_tokenizer import Tokenizer
    from stage1_tokenizer.layers.precision import TYPES, at_precision
    from stage2_prior.codes.check import verify
    from stage2_prior.codes.encoding import Encoding
    from stage2_prior.codes.shares import part_folder, shards_of, share

    try_folder("out", config.out)
    whole = index = load_index(config.data)
    if config.parts > 1:
        index = share(index, config.part, config.parts)
        config = replace(config, out=part_folder(config.out, config.part, config.parts))
    tokenizer = Tokenizer.from_pretrained(config.tokenizer).eval()
    if not tokenizer.codebook_size or tokenizer.transform is None:
        raise UserError(f"tokenizer={config.tokenizer} has no codes or no preprocessor_config.json: give one with both")
    if whole.kind != tokenizer.transform.kind:
        raise UserError(f"data={config.data} holds {whole.kind}, not {tokenizer.transform.kind}: give their index")
    encoding = Encoding(config, tokenizer, tokenizer.transform, index, whole)
    with joined() as accelerator, at_precision(config.precision):
        tokenizer.to(accelerator.device, TYPES[config.precision])
        measured = on_main(accelerator, encoding.begin)
        encoding.batch_size = Vote(accelerator).broadcast(measured)
        mine = shards_of(accelerator.process_index, accelerator.num_processes, index.sizes)
        encoding.out.refresh()
        todo = [shard for shard in mine if encoding.out.finished(encoding.names[shard]) is None]
        total = sum(index.sizes[shard] for shard in todo)
        with Progress("encode", total, unit=whole.kind, enabled=accelerator.is_main_process) as bar:
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
