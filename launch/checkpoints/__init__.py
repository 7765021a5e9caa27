"""Atomic checkpoints of everything stateful: written, found, checked, deleted. Rests on `run`."""
