"""Releases in every type: what plain transformers loads with `dtype=` computes what our own class does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stage1_tokenizer.publishing.standalone import write_model_files
from tests.stage1_tokenizer.publishing.test_standalone import tokenizers
from tests.stage1_tokenizer.tiny import ROOT

IN_BOTH_WAYS = """
import sys, torch
from pathlib import Path
from transformers import AutoModel
from stage1_tokenizer import Tokenizer
for folder in sorted(Path(sys.argv[1]).iterdir()):
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=dtype)
        own = Tokenizer.from_pretrained(folder).to(dtype)
        sizes = {1: (48,), 2: (32, 32), 3: (9, 16, 16)}[own.config.spatial_dims]
        x = torch.rand(2, own.config.in_channels, *sizes, generator=torch.Generator().manual_seed(3)) * 2 - 1
        (y, codes), (own_y, own_codes) = model.reconstruct(x), own.reconstruct(x)
        assert y.dtype == dtype and torch.equal(y, own_y), (folder, dtype)
        if codes is not None:
            assert torch.equal(codes, own_codes) and torch.equal(model.encode(x), codes), (folder, dtype)
            assert torch.equal(model.decode(codes), y), (folder, dtype)
print("all")
"""


def test_every_quantizer_and_network_in_every_type_by_transformers(tmp_path: Path) -> None:
    for name, tokenizer in tokenizers().items():
        tokenizer.save_pretrained(tmp_path / "released" / name)
        write_model_files(tmp_path / "released" / name)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-c", IN_BOTH_WAYS, str(tmp_path / "released")]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "all", done.stderr[-2000:]
