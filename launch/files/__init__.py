"""Atomic writes and patient downloads. Rests on `launch.command`."""
