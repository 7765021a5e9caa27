"""Draw stored codes again: `accelerate launch -m stage2_prior.redraw --prior RUN --codes INDEX.json --out DIR`.

Each stored sample's codes are drawn by the prior from the sample's class or text; every code stays the true one with
probability `true_share`, and the prior sees those that stay. The result is code shards like the stored ones, with the
same keys, labels and captions. Stage one tunes a decoder on them (`data.codes` of stage1_tokenizer.train), so that it
learns to decode what the prior draws: decoder post-training (RobusTok, Qiu et al. 2025).

Every sample is drawn exactly once on any number of ranks, and the same after any interruption. index.json's `meta` is
that of the stored codes, with `redrawn`: how they were drawn, and by which prior.
"""

from dataclasses import replace

from launch.command.cli import parse, run
from stage2_prior.config.redrawing import RedrawConfig


def redraw(config: RedrawConfig) -> int:
    """Redraw as configured, on all ranks; the exit code."""
    from data.shards.loading import check_present, load_index
    from launch.command.progress import Progress
    from launch.files.outputs import try_folder
    from launch.ranks.joined import joined
    from launch.ranks.vote import on_main
    from stage1_tokenizer.layers.precision import TYPES, ieee
    from stage2_prior.codes.shares import part_folder, shards_of, share
    from stage2_prior.priors.build import load_prior
    from stage2_prior.sampling.redrawing import Redrawing

    try_folder("out", config.out)
    prior = load_prior(config.prior, text_encoder=config.text_encoder)
    whole = index = load_index(config.codes)
    if config.parts > 1:
        index = share(index, config.part, config.parts)
        config = replace(config, out=part_folder(config.out, config.part, config.parts))
    redrawing = Redrawing(config, prior, index, whole)
    check_present(index)
    with joined() as accelerator, ieee():
        prior.to(accelerator.device, TYPES[config.precision])
        on_main(accelerator, redrawing.begin)
        mine = shards_of(accelerator.process_index, accelerator.num_processes, index.sizes)
        redrawing.out.refresh()
        todo = [shard for shard in mine if redrawing.out.finished(redrawing.names[shard]) is None]
        total = sum(index.sizes[shard] for shard in todo)
        with Progress("redraw", total, unit=prior.source.kind, enabled=accelerator.is_main_process) as bar:
            for shard in todo:
                redrawing.shard(shard, bar)
        accelerator.wait_for_everyone()
        on_main(accelerator, redrawing.finish)
    return 0


def main() -> int:
    """The command."""
    return redraw(parse(RedrawConfig, prog="python -m stage2_prior.redraw"))


if __name__ == "__main__":
    run(main)
