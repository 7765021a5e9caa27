"""Atomic files and patient downloads."""
