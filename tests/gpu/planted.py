"""Every way to wait for a GPU that `Watch` knows, one a line; tests/gpu/test_no_waits.py reads what is to be found.

python -m tests.gpu.planted
"""

from __future__ import annotations

from tests.gpu import fake_cuda  # isort: skip  (before torch)

import json

import torch

from tests.gpu.watch import CUDA, Watch


def waits() -> None:
    x_N = torch.ones(4, device=CUDA)
    idx_N = torch.zeros(4, dtype=torch.int64, device=CUDA)
    on_cpu_N = torch.ones(4)
    x_N.sum().item()  # reads a value
    if x_N.sum() > 0:  # reads a value
        pass
    torch.bincount(idx_N, minlength=4)  # reads the smallest and the largest value
    torch.equal(x_N, x_N)  # reads whether all are equal
    on_cpu_N.to(CUDA)  # copy of 4 values of float32 between CPU and GPU
    x_N.copy_(on_cpu_N)  # copy of 4 values of float32 between CPU and GPU
    x_N.cpu()  # copy of 4 values of float32 between CPU and GPU
    x_N.new_tensor(3.0)  # copy of 1 values of float32 between CPU and GPU
    torch.tensor([1, 2], device=CUDA)  # copy of 2 values of int64 between CPU and GPU
    on_cpu_N.to(CUDA, non_blocking=True)  # from or to memory that isn't pinned
    x_N.repeat_interleave(idx_N)  # give output_size
    with torch.inference_mode():
        x_N.sum().item()  # reads a value
    weight_N = x_N.clone().requires_grad_()
    weight_N.register_hook(lambda gradient: gradient * gradient.sum().item())  # reads a value
    (weight_N * 2).sum().backward()


def nothing() -> None:
    x_N = torch.ones(4).pin_memory().to(CUDA, non_blocking=True)
    x_N[1:3] = 0.0
    x_N += torch.full((), 2.0, device=CUDA)
    x_N * torch.tensor(3.0)  # a number of the CPU's goes along with the kernel
    torch.where(x_N > 0, x_N, 0.0)
    x_N.new_full((), 3.0)


def main() -> None:
    found = {}
    for steps in (waits, nothing):
        with fake_cuda.pretend(), Watch() as watch:
            steps()
        found[steps.__name__] = dict(watch.waits)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
