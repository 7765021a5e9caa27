"""An uncompiled step of LlamaGen-B at 32 pictures has few launches: 1,600 are allowed, 1,973 it had at first."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest


@pytest.mark.skipif(shutil.which("g++") is None, reason="the fake device is compiled with g++")
def test_a_step_of_llamagen_b_has_few_launches():
    line = [sys.executable, "-m", "tests.gpu.launches", "32"]
    launches = int(subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()[-1])
    assert 500 < launches <= 1300
