"""Count the kernels that a step of LlamaGen-B launches without torch.compile, on fake CUDA tensors.

python -m tests.gpu.launches PICTURES [--SETTING VALUE …]

Counted are ATen operations that aren't views. Where a CPU build of torch takes apart what is one kernel on a GPU
(attention, RMS norms, SiLU's gradient), a stand-in is counted as one; norms of gradients and their scaling, which are
two launches on a GPU, are counted one by one.
"""

from __future__ import annotations

from tests.gpu import fake_cuda  # isort: skip  (before torch)

import sys
import tempfile
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from stage2_prior.codes.source import CodeSource
from tests.gpu.stage2 import Stage2
from tests.gpu.watch import Seen

NO_KERNELS = {
    *("alias", "as_strided", "chunk", "detach", "expand", "permute", "_reshape_alias", "select", "slice", "split", "t"),
    *("split_with_sizes", "squeeze", "transpose", "unbind", "unsqueeze", "_unsafe_view", "view", "lift_fresh"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
}
"""Views, and memory that nothing is written to."""


class Launches(Seen):
    """Counts in `count`."""

    count = 0

    def met(self, func: Any, args: Any, kwargs: Any) -> Any:
        Launches.count += func.namespace == "aten" and func._overloadpacket.__name__ not in NO_KERNELS
        return func(*args, **kwargs)


class Attention(torch.autograd.Function):
    """One launch forward and one backward."""

    @staticmethod
    def forward(ctx: Any, *qkv: Tensor) -> Tensor:
        ctx.save_for_backward(*qkv)
        Launches.count += 1
        return torch.empty_like(qkv[0])

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        Launches.count += 1
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors)


def attention(*qkv: Tensor, **_: Any) -> Tensor:
    """In the place of torch's, with autocast's casts."""
    out: Tensor = Attention.apply(*(each.to(torch.bfloat16) for each in qkv))
    return out


def main() -> None:
    """Print the number."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("silu_backward", lambda down, x: torch.empty_like(x), "CUDA")
    library.impl("_fused_rms_norm", lambda x, *_: (torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)), "CUDA")
    backward = "_fused_rms_norm_backward"
    library.impl(backward, lambda down, x, shape, r, w, mask: (torch.empty_like(x), torch.empty_like(w)), "CUDA")
    source = CodeSource("f" * 64, 16384, (16, 16), {"size": 256, "channels": 3})
    options = [
        "--model.preset",
        "LlamaGen-B",
        "--run.precision",
        "bf16",
        "--data.batch_size",
        sys.argv[1],
        "--data.index",
    ]
    options += ["none", "--tokenizer", "none", *sys.argv[2:]]
    with (
        fake_cuda.pretend(),
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(F, "scaled_dot_product_attention", attention),
    ):
        case = Stage2([*options, "--run.folder", folder], source=source, classes=list(map(str, range(1000))))
        for _ in range(2):
            Launches.count = 0
            with Launches():
                case.step()
    print(Launches.count)


if __name__ == "__main__":
    main()
