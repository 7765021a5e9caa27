"""Atomic checkpoints of everything stateful."""
