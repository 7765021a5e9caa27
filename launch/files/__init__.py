"""Atomic writes, outputs that are tried first, inputs, patient downloads and templates. Rests on `command`."""
