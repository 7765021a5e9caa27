"""A rank that stands still ends with its stacks told; one that moves doesn't."""

from __future__ import annotations

import subprocess
import sys
import time

from launch.run.watchdog import HUNG, Watchdog


def run(body: str) -> subprocess.CompletedProcess[str]:
    code = (
        f"import time\nfrom launch.run.watchdog import Watchdog\ndog = Watchdog(0.5, rank=3)\ndog.step_done()\n{body}"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_a_rank_that_stands_still_tells_its_stacks_and_ends() -> None:
    done = run("def stuck():\n    time.sleep(50)\nstuck()")
    assert done.returncode == HUNG
    assert "rank 3 on " in done.stderr
    assert "hung for" in done.stderr
    assert "in stuck" in done.stderr


def test_a_sign_of_life_that_comes_too_late_counts_for_nothing() -> None:
    done = run("time.sleep(0.6)\nfor _ in range(500):\n    dog.heartbeat()\n    time.sleep(0.1)")
    assert done.returncode == HUNG


def test_a_rank_that_moves_lives() -> None:
    assert run("for _ in range(20):\n    dog.heartbeat()\n    time.sleep(0.1)").returncode == 0


def test_the_first_step_may_take_longer() -> None:
    code = "import time\nfrom launch.run.watchdog import Watchdog\nWatchdog(0.2, rank=0)\ntime.sleep(1)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_closed_watchdog_and_one_without_limit_watch_nothing() -> None:
    assert run("dog.close()\ntime.sleep(1)").returncode == 0
    idle = Watchdog(0, rank=0)
    time.sleep(0.01)
    idle.heartbeat()
