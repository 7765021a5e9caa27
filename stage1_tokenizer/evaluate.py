"""Measure a tokenizer: `python -m stage1_tokenizer.evaluate --tokenizer DIR --data INDEX --out FILE.json`.

On several ranks with `python -m launch.local --processes N stage1_tokenizer.evaluate …`; every picture counts exactly
once on any number of ranks. `--compare A.json B.json` says whether two results may be compared, and what differs.
"""

import sys

from launch.command.cli import parse, run
from stage1_tokenizer.config.measuring import EvaluateConfig


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--compare"]:
        from stage1_tokenizer.measuring.results import compare

        return compare(sys.argv[2:])
    config = parse(EvaluateConfig, prog="python -m stage1_tokenizer.evaluate")
    from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer

    evaluate_tokenizer(config)
    return 0


if __name__ == "__main__":
    run(main)
