"""Exit codes of every command, in one place; `python -m launch.command.exit_codes` prints them for shell scripts."""

from __future__ import annotations

BAD_INPUT = 2
"""The input was wrong: nothing was written, and running the command again changes nothing."""

STOPPED = 85
"""SIGTERM or SIGUSR1 ended a run at a step boundary, after a checkpoint of what was done: rerun it to resume."""

HUNG = 86
"""The watchdog ended a hung rank (run.watchdog): the same command resumes the run."""

INTERRUPTED = 130
"""Ctrl-C ended the command, a run at a step boundary as above. As shells tell it: 128 + SIGINT."""

SIGNALLED = 128
"""Shells add the number of the signal that ended a process to this."""

if __name__ == "__main__":
    print(f"BAD_INPUT={BAD_INPUT} STOPPED={STOPPED} HUNG={HUNG} INTERRUPTED={INTERRUPTED} SIGNALLED={SIGNALLED}")
