"""The prior's optimizer, and what a training costs. Rests on `priors` and `launch.strategies`."""
