"""Prints which operators of ours a tokenizer with kernels calls on fake CUDA tensors under autocast, and their types.

`python -m tests.stage1_tokenizer.kernels.gpu.on_fakes`, which test_install.py does.
"""

from __future__ import annotations

import tests.gpu.fake_cuda as fake_cuda  # isort: skip  (before torch)

import json
import os
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.quantizers.nearest import nearest_code
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.gpu.watch import Seen
from tests.stage1_tokenizer.small_backbones import BACKBONES

OF_INTEREST = ("vqloom", "native_group_norm", "upsample", "addmm", "argmin", "silu")


class Called(Seen):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def met(self, func: Any, args: Any, kwargs: Any) -> Any:
        if any(name in str(func) for name in OF_INTEREST):
            self.calls[f"{func} {str(args[0].dtype).removeprefix('torch.')}"] += 1
        return func(*args, **kwargs)


def calls(name: str, kind: torch.dtype) -> dict[str, int]:
    """Of a forward and backward pass."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(replace(BACKBONES[name], channels=32)).to("cuda", memory_format=torch.channels_last)
    half = kind in (torch.bfloat16, torch.float16)
    weights = torch.float32 if half else kind
    install(tokenizer.to(weights), "cuda")
    x_BCHW = torch.empty(2, 3, 16, 16, device="cuda", dtype=weights).to(memory_format=torch.channels_last)
    with Called() as called:
        with torch.autocast("cuda", kind if half else None, enabled=half):
            output = tokenizer.decoder(tokenizer.encoder(x_BCHW))
            nearest_code(torch.empty(9, 4, device="cuda"), torch.empty(5, 4, device="cuda"))
        output.float().sum().backward()
    return dict(called.calls)


if __name__ == "__main__":
    with fake_cuda.pretend():
        cases = {"conv": torch.bfloat16, "magvit2": torch.bfloat16}
        found = {name: calls(name, kind) for name, kind in cases.items()}
        found["float64"] = calls("conv", torch.float64)
    print(json.dumps(found), flush=True)
    os._exit(0)  # autograd's thread for the device that isn't there would end the process by a signal
