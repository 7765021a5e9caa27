"""A training run: its folder, seeds, signals, metrics, and what watches it."""
