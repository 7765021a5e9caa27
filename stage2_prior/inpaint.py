"""Draw parts of given pictures anew: `python -m stage2_prior.inpaint --given PICTURES --keep left …`.

    python -m stage2_prior.inpaint --prior RUN --tokenizer DIR --given PICTURES --keep border --share 0.4 --out OUT

The pictures become codes; those whose place the hole touches are drawn, the others stay exactly as they are. OUT is as
stage2_prior.sample writes it, a folder for each given picture, in which are given.png and hole.png too; they are the
first two columns of OUT/grid.png. Which holes a prior can fill depends on what its codes hear:

    masked          any: every code hears all that are there, wherever they are
    multiscale      any: a code of a scale is kept where at most half of its place is in the hole
    autoregressive  those that reach from some code on to the end, row by row (--keep top): a code hears only those
    and depth       before it. So it is with order=random too: the exported model has settled on rows

Shapes: B pictures, C channels, H W pixels, h w latent grid, N codes.
"""

from __future__ import annotations

from functools import partial

from launch.command.cli import parse, run
from stage2_prior.config.sampling import InpaintConfig
from stage2_prior.sample import sample


def inpaint(config: InpaintConfig) -> int:
    """Draw as configured, on all ranks; the exit code."""
    from stage2_prior.sampling.holes import Given

    return sample(config, partial(Given, config))


def main() -> int:
    """The command."""
    return inpaint(parse(InpaintConfig, prog="python -m stage2_prior.inpaint"))


if __name__ == "__main__":
    run(main)
