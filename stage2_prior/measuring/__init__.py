"""Figures of a prior and of its samples."""
