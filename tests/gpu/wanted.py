"""The waits that are wanted, each with its reason: tests/gpu/test_no_waits.py allows no other."""

from __future__ import annotations

IN_STEPS = {
    ("run.log_every=1", "launch/run/means.py"): "a line of metrics is due, which it is every run.log_every steps",
    ("run.log_every=1", "launch/run/bad_updates.py"): "the line says how many updates were skipped",
    (
        "given",
        "stage2_prior/generation/autoregressive.py",
    ): "where drawing begins depends on what is given, once a batch",
    ("given", "stage2_prior/generation/bits.py"): "as above",
}
"""By a word of the row and the file in which it waits."""

ON_SEVERAL_RANKS = {
    "launch/strategies/fsdp2.py": "torch's sharded optimizer can't leave out a step by itself, so the host asks "
    "whether the gradients are finite",
}
"""Those that no row meets, as the rows have one rank."""

IN_LIBRARIES: dict[str, str] = {}
"""By a library's file: what it waits for only where tensors are real."""

NOT_YET: dict[str, str] = {}
"""Rows of trainings that fakes can't run yet."""
