"""Redraw parts of given pictures, or continue sounds: `python -m stage2_prior.inpaint --given PICTURES --keep left …`.

    python -m stage2_prior.inpaint --prior RUN --tokenizer DIR --given PICTURES --keep border --share 0.4 --out OUT
    python -m stage2_prior.inpaint --prior RUN --tokenizer DIR --given CLIPS --keep start --share 0.3 --out OUT

The pictures are encoded; codes whose place the hole touches are redrawn, the others stay exactly as they are. OUT has
stage2_prior.sample's form, with a folder for each given picture, which also has given.png and hole.png, the first two
columns of OUT/grid.png. The holes that a prior can fill depend on what its codes attend to:

    masked          any: every code attends to all others
    multiscale      any: a code of a scale is kept if at most half of its place is in the hole
    autoregressive, holes that reach from some code to the end, row by row (--keep top), as a code attends only to
    depth and delay those before it; so also with order=random, which ends in row-by-row order
"""

from functools import partial

from launch.command.cli import parse, run
from stage2_prior.config.sampling import InpaintConfig
from stage2_prior.sample import sample


def inpaint(config: InpaintConfig) -> int:
    """Inpaint as configured, on all ranks; the exit code."""
    from stage2_prior.sampling.holes import Given

    return sample(config, partial(Given, config))


def main() -> int:
    """The command."""
    return inpaint(parse(InpaintConfig, prog="python -m stage2_prior.inpaint"))


if __name__ == "__main__":
    run(main)
