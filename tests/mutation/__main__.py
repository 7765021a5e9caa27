"""Change the code, one expression at a time, and count which changes a test catches.

    python -m tests.mutation --sample 1000        # a seeded sample over all modules, which resumes where it was stopped
    python -m tests.mutation --only quantizers    # all mutants of the modules whose path has this word
    python -m tests.mutation --show               # what survived so far

`--out` is a folder: `reach.jsonl` has which tests run which lines, recorded anew for test files that have changed, and
`results.jsonl` one line a mutant. With --again those that had survived are tried once more. survivors.json names the
mutants that survive, with the reason: `equivalent` (no test can see it) or `visible` (a test could, but none does).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.forks import in_children
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.trial import (
    CAUGHT,
    OPTIONS,
    SURVIVED,
    TIMEOUT,
    UNREACHED,
    Session,
    Trials,
    record,
    save,
)

ROOT = Path(__file__).parents[2]
REASONS = ROOT / "tests" / "mutation" / "survivors.json"
MODULES = (
    "stage1_tokenizer/quantizers/*.py",
    "stage1_tokenizer/losses/*.py",
    "stage1_tokenizer/training/step.py",
    "stage1_tokenizer/training/adversary.py",
    "stage1_tokenizer/training/loss_scale.py",
    "stage1_tokenizer/measuring/distances.py",
    "stage1_tokenizer/measuring/scores.py",
    "stage2_prior/config/drawing.py",
    "stage2_prior/generation/*.py",
    "stage2_prior/priors/*.py",
    "stage2_prior/sampling/*.py",
    "data/order/*.py",
    "data/pictures/transforms.py",
    "data/pictures/geometry.py",
    "data/pictures/convert.py",
    "data/pictures/decode.py",
    "launch/run/ema.py",
    "launch/run/schedule.py",
    "launch/checkpoints/*.py",
)
TESTS = tuple(
    f"tests/{package}/{room}"
    for package, rooms in {
        "data": ("order", "packing", "pictures", "reading"),
        "launch": ("checkpoints", "run", "strategies"),
        "stage1_tokenizer": ("discriminators", "losses", "measuring", "quantizers", "tokenizer", "training"),
        "stage2_prior": ("config", "codes", "commands", "generation", "measuring", "priors", "sampling", "training"),
    }.items()
    for room in rooms
)
LIBRARIES = (
    "torch, torchvision, transformers, numpy, PIL.Image, scipy.linalg, accelerate, safetensors.torch, sklearn, "
    "hypothesis, simplejpeg, yaml, jsonargparse, lpips, torch_fidelity, tensorboard, diffusers, "
    "vector_quantize_pytorch, transformers.models.llama.modeling_llama, transformers.models.bert.modeling_bert"
)
"""Loaded once, before the first fork."""


def main() -> int:
    """Try the mutants asked for, and print the score of each module."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, help="so many mutants, drawn over all modules (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", default="", help="modules whose path has this word")
    parser.add_argument("--out", type=Path, default=ROOT / "mutation", help="folder of what was found")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--budget", type=float, default=30.0, help="most seconds of tests for one mutant")
    parser.add_argument("--again", action="store_true", help="try those again that survived and could be seen")
    parser.add_argument("--show", action="store_true", help="only print what is known")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = draw(options.only, options.sample, options.seed)
    if not options.show:
        os.chdir(ROOT)
        os.environ["OMP_NUM_THREADS"] = "1"
        for library in LIBRARIES.split(", "):
            __import__(library)
        reached = options.out / "reach.jsonl"
        paths = {mutant.path for mutant in draw("", None, 0)}
        apart(lambda: in_session(lambda items: record(items, ROOT, paths, reached, options.workers, 150.0)))
        while try_all(wanted, options):
            pass
    return report(wanted, options)


def draw(only: str, sample: int | None, seed: int) -> list[Mutant]:
    """The mutants of a run: all, or a sample that takes from each module in proportion, at least five.

    A mutant is drawn by a hash of its name, so that a sample stays what it is where the code stays.
    """
    paths = [path for pattern in MODULES for path in sorted(ROOT.glob(pattern)) if only in str(path.relative_to(ROOT))]
    found = {path: mutants(path, ROOT) for path in paths}
    total = sum(map(len, found.values()))
    if sample is None or sample >= total:
        return [mutant for group in found.values() for mutant in group]
    drawn: list[Mutant] = []
    for group in found.values():
        count = min(len(group), max(5, round(sample * len(group) / total)))
        drawn += sorted(group, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest())[:count]
    return drawn


def try_all(wanted: list[Mutant], options: argparse.Namespace) -> bool:
    """Try those without a result: in functions, then what runs at import. Whether some must be tried again."""
    results = options.out / "results.jsonl"
    known = read_results(results)
    if options.again:
        entries = json.loads(REASONS.read_text())
        seen = {mutant.key for mutant in wanted if known_reason(mutant, entries).get("kind") != "equivalent"}
        missed = {key for key, result in known.items() if result["result"] in (SURVIVED, UNREACHED)}
        known = {key: result for key, result in known.items() if key not in missed & seen}
    left = [mutant for mutant in wanted if mutant.key not in known]
    trials = Trials(ROOT, options.out / "reach.jsonl", options.workers, options.budget)
    done, started = 0, time.monotonic()

    def tell(result: dict[str, Any]) -> None:
        nonlocal done
        save(results, result)
        done += 1
        if result["result"] in (SURVIVED, UNREACHED) or done % 50 == 0:
            rate = (time.monotonic() - started) / done
            print(f"{done}/{len(left)} ({rate:.2f} s each) {result['result']}: {result['key']}", flush=True)

    inside = [mutant for mutant in left if not mutant.at_import]
    if inside:
        apart(lambda: in_session(lambda items: [tell(result) for result in trials.inside(items, inside)]))
    for result in trials.at_import([mutant for mutant in left if mutant.at_import]):
        tell(result)
    options.again = False
    return drop_false(wanted, trials, results)


def drop_false(wanted: list[Mutant], trials: Trials, results: Path) -> bool:
    """Drop what was caught by tests that fail without a change too; whether there was any."""
    keys = {mutant.key for mutant in wanted}
    caught = [
        one for one in read_results(results).values() if one["key"] in keys and one["result"] in (CAUGHT, TIMEOUT)
    ]
    caught_by: dict[str, set[str]] = {}
    for one in caught:
        caught_by.setdefault(one["path"], set()).add(one["by"])
    apart(lambda: in_session(lambda items: trials.control(items, caught_by)))
    broken = set(json.loads(trials.broken_file.read_text()))
    false = {one["key"] for one in caught if one["by"] in broken}
    lines = [line for line in results.read_text().splitlines() if json.loads(line)["key"] not in false]
    results.write_text("\n".join(lines) + "\n")
    return bool(false)


def apart(work: Callable[[], Any]) -> None:
    """Work in a process of its own: this one stays without the project's modules."""
    for _, code, word, _ in in_children([("", lambda: work() or 0, math.inf)], 1):
        if code:
            raise SystemExit(f"it ended with exit code {code} {word}")


def in_session(work: Any) -> None:
    """Collect the tests and work with them, with the output where it was."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")

    def told(items: list[pytest.Item]) -> None:
        before, sys.stdout = sys.stdout, out
        try:
            work(items)
        finally:
            sys.stdout = before

    code = pytest.main([*OPTIONS, *TESTS], plugins=[session := Session(told)])
    if not session.collected or code not in (0, 5):
        raise SystemExit(f"the tests could not be collected (exit code {code}): run pytest --collect-only")


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """The last result of each mutant."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {result["key"]: result for result in map(json.loads, lines)}


def known_reason(mutant: Mutant, entries: list[dict[str, str]]) -> dict[str, str]:
    """The entry of survivors.json that speaks of a mutant: all that it names must fit; {} if there is none."""
    for entry in entries:
        if (
            entry.get("path", "") in mutant.path
            and mutant.function == entry.get("function", mutant.function)
            and entry.get("text", "") in mutant.text
            and entry.get("change", "") in mutant.change
        ):
            return entry
    return {}


def report(wanted: list[Mutant], options: argparse.Namespace) -> int:
    """Print the survivors without a reason and the score; write summary.json. 1 where a survivor has no reason."""
    known = read_results(options.out / "results.jsonl")
    entries = json.loads(REASONS.read_text())
    rows: dict[str, Counter[str]] = {}
    unexplained = []
    for mutant in wanted:
        result = known.get(mutant.key, {"result": "not tried"})["result"]
        row = rows.setdefault(mutant.path, Counter())
        row[result] += 1
        if result in (SURVIVED, UNREACHED):
            entry = known_reason(mutant, entries)
            row[entry.get("kind", "unexplained")] += 1
            if not entry:
                unexplained.append((mutant, result))
    for mutant, result in unexplained:
        print(f"{mutant.path}:{mutant.line} {mutant.function} {result}: {mutant.change}   in   {mutant.text}")
    total = sum(rows.values(), Counter[str]())
    for name, row in [*rows.items(), ("all", total)]:
        caught = row[CAUGHT] + row[TIMEOUT]
        tried = caught + row[SURVIVED] + row[UNREACHED]
        share, able = caught / max(1, tried), caught / max(1, tried - row["equivalent"])
        rest = {word: row[word] for word in ("visible", "unexplained", "not tried", "not applied") if row[word]}
        print(
            f"{name:48} {caught:5} of {tried:5} {share:6.1%}; {row['equivalent']:3} equivalent {able:6.1%}", rest or ""
        )
    about = {
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "sample": options.sample,
        "seed": options.seed,
        "modules": {name: dict(row) for name, row in rows.items()},
        "all": dict(total),
    }
    (options.out / "summary.json").write_text(json.dumps(about, indent=2) + "\n")
    return 1 if unexplained else 0


if __name__ == "__main__":
    raise SystemExit(main())
