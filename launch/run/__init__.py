"""A training run: its folder, seeds, schedule, averages, metrics and watchdog. Rests on `ranks` and `files`."""
