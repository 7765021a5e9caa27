"""A training run: its folder, seeds, signals, metrics and watchdog. Rests on `launch.ranks` and `launch.files`."""
