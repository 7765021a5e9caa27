"""Kernels for GPUs; none so far, torch and cuDNN do all of it."""
