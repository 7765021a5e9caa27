"""The local runner: what is reused, what is refused, and how a stage's end is told and recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.command.cli import UserError
from launch.command.exit_codes import BAD_INPUT, INTERRUPTED
from launch.stages import records, runner
from launch.stages.runner import Runner, is_done, key
from launch.stages.stage import Stage
from tests.imports import ROOT


def a_stage(out: Path, recipe: Path, **changes: object) -> Stage:
    settings = {"processes": 1, "arguments": ("--run.folder", str(out / "run"), "--config", str(recipe)), **changes}
    return Stage("one", "do it", "module", makes=(out / "result",), reads=(recipe,), **settings)  # type: ignore[arg-type]


def test_a_stage_is_done_only_with_its_own_key_and_result(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps: 1")
    stage = a_stage(tmp_path, recipe)
    wanted = key(stage, tmp_path, "")
    assert not is_done(stage, tmp_path, wanted)
    records.path(tmp_path, "one").parent.mkdir()
    records.path(tmp_path, "one").write_text(json.dumps({"key": wanted, "done": True}))
    assert not is_done(stage, tmp_path, wanted)
    (tmp_path / "result").touch()
    assert is_done(stage, tmp_path, wanted)
    with pytest.raises(UserError, match="choose another --out"):
        is_done(stage, tmp_path, "other")


def test_a_stage_that_only_refused_its_input_begins_with_a_mended_one(tmp_path: Path) -> None:
    stage = Stage("one", "do it", "module", (), makes=(tmp_path / "run" / "result",))
    records.begin(tmp_path, "one", most_idle=None, key="bad", command=[])
    records.end(tmp_path, "one", BAD_INPUT)
    assert not is_done(stage, tmp_path, "mended")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint").touch()
    with pytest.raises(UserError, match="another configuration"):
        is_done(stage, tmp_path, "mended")
    (tmp_path / "run" / "checkpoint").unlink()
    records.begin(tmp_path, "one", most_idle=None, key="bad", command=[])
    records.end(tmp_path, "one", 1)
    with pytest.raises(UserError, match="another configuration"):
        is_done(stage, tmp_path, "mended")


def test_the_key_is_of_content_and_not_of_places(tmp_path: Path) -> None:
    recipe, moved = tmp_path / "recipe.yaml", tmp_path / "moved" / "recipe.yaml"
    moved.parent.mkdir()
    recipe.write_text("steps: 1")
    moved.write_text("steps: 1")
    first = key(a_stage(tmp_path, recipe), tmp_path, "")
    assert first == key(a_stage(moved.parent, moved), moved.parent, "")
    assert first != key(a_stage(tmp_path, recipe), tmp_path, "before")
    assert first != key(a_stage(tmp_path, recipe, processes=2), tmp_path, "")
    recipe.write_text("steps: 2")
    assert first != key(a_stage(tmp_path, recipe), tmp_path, "")


def test_renamed_settings_leave_the_key_as_it_was(tmp_path: Path) -> None:
    """The shipped recipes were respelled; a quickstart folder from before is reused all the same."""
    recipe = tmp_path / "prior.yaml"
    keys = []
    for text in ("a:\n  betas: [0.9, 0.99]\n  warmup_steps: 5\n", "a:\n  beta1: 0.9\n  beta2: 0.99\n  warmup: 5\n"):
        recipe.write_text(text)
        keys.append(key(a_stage(tmp_path, recipe), tmp_path, ""))
    assert keys[0] == keys[1]


def script(tmp_path: Path, code: str) -> Stage:
    """A stage that runs this code."""
    (tmp_path / "code.py").write_text(code)
    return Stage("one", "do it", "runpy", (str(tmp_path / "code.py"),), makes=(tmp_path / "out" / "result",))


@pytest.fixture
def as_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "command", lambda stage: [sys.executable, *stage.arguments])


@pytest.mark.usefixtures("as_script")
def test_a_failed_stage_is_told_and_run_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for code, expected, said in (
        ("raise SystemExit(2)", 2, "refused its input"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, "exit code 137; rerun the same command"),
        ("", 1, f"did not write {out / 'result'}"),
        (f"open({str(out / 'result')!r}, 'w')", 0, "[1/1] do it: "),
        ("raise SystemExit(3)", 0, "reused, it was done earlier"),
    ):
        stage = script(tmp_path, code)
        with Runner(out, "test", keyed=False) as running:
            assert running.run([stage], 1) == expected
        assert said in capfd.readouterr().out
    record = records.read(out, "one")
    assert record["state"] == "done" and len(record["attempts"]) == 4 and record["command"] == list(stage.arguments)
    (out / "result").unlink()
    with Runner(out, "test", keyed=False) as running:
        assert running.run([stage], 1) == 3


def test_a_folder_is_held_while_its_stages_run(tmp_path: Path) -> None:
    with Runner(tmp_path, "test", keyed=True), pytest.raises(UserError, match="is in use by process"):
        Runner(tmp_path, "test", keyed=True).__enter__()


def write_chain(folder: Path, first: str = "") -> None:
    """first.py: the runner on two stages, each of which is stage.py, after the lines `first`."""
    (folder / "first.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom launch.command import cli\n"
        "from launch.stages import runner\nfrom launch.stages.stage import Stage\n"
        "runner.command = lambda stage: [sys.executable, *stage.arguments]\n"
        f"{first}"
        "one = Stage('one', 'do it', 'x', ('stage.py',), makes=(Path('result').absolute(),))\n"
        "two = Stage('two', 'do more', 'x', ('stage.py',), makes=(Path('never').absolute(),))\n"
        "def main():\n"
        "    with runner.Runner(Path('out'), 'test', keyed=False) as running:\n"
        "        return running.run([one, two], 2)\n"
        "cli.run(main)"
    )


@pytest.mark.parametrize(
    ("ends", "state", "said"),
    [
        ("raise", "waiting", "stopped: the one stage was interrupted; rerun the same command to resume"),
        ("Path('result').touch()", "done", "stopped by Ctrl-C after the one stage; rerun the same command to go on"),
    ],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_ends_the_stage_at_work_and_begins_no_other(
    tmp_path: Path, ends: str, state: str, said: str, terminal: bool
) -> None:
    """Whether the terminal tells both processes, or the runner alone is told."""
    out = tmp_path / "out"
    (tmp_path / "stage.py").write_text(
        "import time\nfrom pathlib import Path\nfrom launch.command import cli\n"
        "def main():\n    Path('began').touch()\n"
        f"    try:\n        time.sleep(100)\n    except KeyboardInterrupt:\n        {ends}\ncli.run(main)"
    )
    write_chain(tmp_path)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    line = [sys.executable, "first.py"]
    started = subprocess.Popen(
        line, cwd=tmp_path, env=environ, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    if terminal:
        os.killpg(started.pid, signal.SIGINT)
    else:
        started.send_signal(signal.SIGINT)
    told, errors = started.communicate(timeout=30)
    assert (started.returncode, "Traceback" in errors) == (INTERRUPTED, False), errors
    assert said in told and "do more" not in told
    assert records.read(out, "one")["state"] == state


@pytest.mark.parametrize(
    ("stage", "wait", "said"),
    [
        ("open('result', 'w')", "code = before(child); signal.raise_signal(signal.SIGINT)", "after the one stage"),
        ("import time; time.sleep(100)", "signal.raise_signal(signal.SIGINT); code = before(child)", "was interrupted"),
    ],
)
def test_ctrl_c_at_a_stages_end_and_before_it_listens(tmp_path: Path, stage: str, wait: str, said: str) -> None:
    """Deterministic: the press comes when the child has been waited for, or when it has no handler."""
    (tmp_path / "stage.py").write_text(stage)
    write_chain(
        tmp_path,
        "import signal, subprocess\n"
        "before = subprocess.Popen.wait\n"
        f"def wait(child):\n    {wait}\n    return code\n"
        "subprocess.Popen.wait = wait\n",
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "first.py"]
    done = subprocess.run(line, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (INTERRUPTED, "")
    assert said in done.stdout and "do more" not in done.stdout
