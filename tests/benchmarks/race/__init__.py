"""The race of tokenizers and priors: python -m tests.benchmarks.race."""
