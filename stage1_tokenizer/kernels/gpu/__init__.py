"""Kernels for GPUs, in Triton, as operators of torch. Rests on the rooms of the layers that they replace.

An operator (`group_norm.py`, `nearest.py`) works on fake tensors, under torch.compile and in CUDA graphs. Its programs
(`*_programs.py`) import triton, so they are loaded where an operator first meets a tensor on a GPU.
"""
