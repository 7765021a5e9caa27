"""Measure a prior: `python -m stage2_prior.evaluate --prior RUN --codes HELD_OUT_CODES/index.json --samples DIR …`.

bits_per_code     the prior's mean -log2 p(code) on held-out codes, each once
class_agreement   share of samples that a classifier of real training pictures assigns to the requested class
real_accuracy     the same classifier's accuracy on real held-out pictures, without which agreement means little
fid, sfid, inception_score, kid, precision, recall; or frechet_vgg16, kid_vgg16, …: distances of the samples from
                  `reference` (stage1_tokenizer.measuring.distances)

For several ranks: `python -m launch.local --processes N stage2_prior.evaluate …`; every code and picture counts once
on any number. `--compare A.json B.json` tells whether two results are comparable, and what differs.
"""

import sys

from launch.command.cli import parse, run
from stage2_prior.config.evaluation import EvaluateConfig


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--compare"]:
        from stage1_tokenizer.measuring.results import compare

        return compare(sys.argv[2:])
    config = parse(EvaluateConfig, prog="python -m stage2_prior.evaluate")
    from stage2_prior.measuring.evaluation import evaluate

    evaluate(config)
    return 0


if __name__ == "__main__":
    run(main)
