"""Kernels for CPUs. Rests on `layers`."""
