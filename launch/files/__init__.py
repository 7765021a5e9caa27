"""Atomic writes, patient downloads, folders and templates. Rests on `command`."""
