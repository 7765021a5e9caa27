"""Compare tokenizers: `python -m stage1_tokenizer.compare --recipe R --train INDEX --held_out INDEX --out DIR`.

Trains VAE, VQ-VAE and VQGAN, then VQGAN with each other quantizer, on the same data, steps, networks and seed:

OUT/NAME/run            the training run; reused if finished, resumed if not
OUT/NAME/metrics.json   stage1_tokenizer.evaluate on all held-out pictures
OUT/table.md, table.json, reconstructions.png
"""

from launch.command.cli import parse, run
from stage1_tokenizer.config.comparison import CompareConfig


def main() -> None:
    """The command."""
    config = parse(CompareConfig, prog="python -m stage1_tokenizer.compare")
    from stage1_tokenizer.measuring.comparison import compare

    compare(config)


if __name__ == "__main__":
    run(main)
