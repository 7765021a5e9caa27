"""Describe files in words: `python -m stage2_prior.describe FILES… --prior RUN --tokenizer DIR [--out OUT]`.

The prior is a unified one (model.kind=unified); it reads the codes of each picture, sound or video and writes on. The
captions are printed, a line for each file.

OUT/captions.json   settings, tokenizer, and for each sample its name, caption and, of an index, its own text
OUT/NUMBER.png      the samples as the tokenizer sees them; of sounds .flac too, of videos .webp
"""

from launch.command.cli import parse, run
from stage2_prior.config.texts import DescribeConfig


def main() -> None:
    """The command."""
    config = parse(DescribeConfig, prog="python -m stage2_prior.describe FILES…", positional=("files",))
    from launch.files.outputs import try_new_folder

    if config.out is not None:
        try_new_folder("out", config.out)
    from stage2_prior.sampling.texts import describe

    for name, caption in describe(config):
        print(f"{name}\t{caption}", flush=True)


if __name__ == "__main__":
    run(main)
