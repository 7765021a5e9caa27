"""Last step of the set-up: check that what was installed loads, and repair the one thing known to break.

torch is pinned to its CPU build, 2.13.0. The package index offers the torchvision that belongs to it, 0.28.0, built for
CUDA only; the next pair, torch 2.14.1 and torchvision 0.29.1, exists only for CUDA, 5.5 GB of it. Beside a CPU build of
torch, torchvision's compiled operators don't load, and its import fails at the two operators that it registers in
Python, and with it lpips and transformers. Declaring these two is enough for all that is used here. It is done in the
environment's own torchvision only, and only where the import fails with that very error.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

SYMPTOM = "operator torchvision::nms does not exist"

DECLARATIONS = """
# A torchvision built for CUDA beside a CPU build of torch registers no operators: declare the two its import needs.
if not _has_ops():
    import torch as _torch

    _declared = _torch.library.Library("torchvision", "FRAGMENT")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def problem(module: str) -> str:
    """The last line of what importing a module in a fresh process says; empty where it loads."""
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it died"])[-1]


def mend_torchvision() -> bool:
    """Declare the missing operators where that is what ails torchvision; whether it was necessary."""
    if SYMPTOM not in problem("torchvision"):
        return False
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.origin is not None
    extension = Path(spec.origin).parent / "extension.py"
    extension.write_text(extension.read_text() + DECLARATIONS)
    return True


def main() -> int:
    """Mend, then check the packages that everything rests on."""
    if mend_torchvision():
        print("setup: declared torchvision's operators beside a CPU build of torch")
    for module in ("torchvision", "accelerate", "webdataset", "simplejpeg", "lpips", "soundfile", "soxr", "av"):
        if found := problem(module):
            print(f"error: {module} does not load: {found}: remove .venv and run the set-up again", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
