"""Ctrl-C: what the first and the second press do to a command, to its workers and to the processes it waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from launch.command import interrupts
from launch.command.exit_codes import INTERRUPTED

WAITS = "import time\nprint('ready', flush=True)\ntime.sleep(100)"
BEGIN = "import sys, time, subprocess\nfrom launch.command import interrupts, cli, workers\n"


def indented(lines: str) -> str:
    return "".join(f"    {line}\n" for line in lines.splitlines())


def started(main: str, folder: Path | None = None) -> subprocess.Popen[str]:
    """A command whose main function has these lines; returns once it has printed `ready`."""
    code = f"{BEGIN}def main():\n{indented(main)}cli.run(main)"
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


@pytest.mark.parametrize(
    "main", [WAITS, f"try:\n{indented(WAITS)}except BaseException:\n    raise ImportError('half')"]
)
def test_ctrl_c_ends_a_command_with_one_line(main: str) -> None:
    """Also where a library makes an error of its own of it."""
    process = started(main)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (INTERRUPTED, "interrupted by Ctrl-C\n")


def test_a_second_ctrl_c_ends_what_does_not_end() -> None:
    process = started(f"try:\n{indented(WAITS)}finally:\n    print('x', flush=True)\n    time.sleep(100)")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None and process.stdout.readline() == "x\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == INTERRUPTED


ASKS = """
def ask(): print("asked", flush=True)
with interrupts.asking(ask):
    print("ready", flush=True)
    while True: time.sleep(0.01)
"""


@pytest.mark.parametrize("order", [(signal.SIGINT, signal.SIGUSR2), (signal.SIGUSR2, signal.SIGINT, signal.SIGUSR2)])
def test_the_terminals_signal_and_one_that_is_handed_on_are_one_press(order: tuple[int, ...]) -> None:
    process = started(ASKS)
    for number in order:
        process.send_signal(number)
        time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=10)
    assert (process.returncode, told) == (INTERRUPTED, "asked\n")


def test_handing_on_reaches_those_that_are_waited_for_and_the_second_press_kills_them() -> None:
    inner = f"{BEGIN}def main():\n{indented(ASKS)}cli.run(main)"
    process = started(f"""
child = subprocess.Popen([sys.executable, "-c", {inner!r}], start_new_session=True)
with interrupts.asking(interrupts.hand_on):
    sys.exit(child.wait())
""")
    family = psutil.Process(process.pid).children(recursive=True)
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == INTERRUPTED
    psutil.wait_procs(family, timeout=10)
    assert len(family) == 1 and not family[0].is_running()


def test_ctrl_c_without_anybody_to_hand_it_on_to_ends_the_command() -> None:
    process = started(f"with interrupts.asking(interrupts.hand_on):\n{indented(WAITS)}")
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=10)[1], process.returncode) == ("interrupted by Ctrl-C\n", INTERRUPTED)


def test_workers_neither_outlive_ctrl_c_nor_speak_of_it() -> None:
    process = started("""
with workers.workers(2) as pool:
    running = [pool.submit(time.sleep, 100) for _ in range(8)]
    time.sleep(0.5)
    print("ready", flush=True)
    running[0].result()
""")
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, told, len(family)) == (INTERRUPTED, "interrupted by Ctrl-C\n", 2)
    assert not any(worker.is_running() for worker in family)


def test_outside_a_command_the_handlers_are_put_back() -> None:
    before = signal.default_int_handler  # a shell's background jobs begin with SIGINT ignored
    signal.signal(signal.SIGINT, before)
    pressed = []
    with interrupts.asking(lambda: pressed.append(1)):
        signal.raise_signal(signal.SIGINT)
    assert pressed == [1]
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


ENDS = "import atexit\natexit.register(lambda: (print('ready', flush=True), time.sleep(2)))\nreturn 0"


def test_a_press_after_the_work_is_done_changes_nothing_and_a_second_one_ends_at_once() -> None:
    """While the interpreter cleans up, its finalizers met KeyboardInterrupt."""
    done = started(ENDS)
    done.send_signal(signal.SIGINT)
    assert (done.communicate(timeout=30)[1], done.returncode) == ("", 0)
    hurried = started(ENDS.replace("sleep(2)", "sleep(100)"))
    hurried.send_signal(signal.SIGINT)
    time.sleep(0.5)
    hurried.send_signal(signal.SIGINT)
    assert hurried.wait(timeout=10) == INTERRUPTED
