"""Exit codes of every command, in one place; launch/slurm/common.sh knows them from here."""

from __future__ import annotations

BAD_INPUT = 2
"""The input was wrong: nothing was written, and running the command again changes nothing."""

STOPPED = 85
"""SIGTERM or SIGUSR1 ended a run at a step boundary, after a checkpoint: the same command resumes it."""
