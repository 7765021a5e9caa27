"""Held-out bits per code, and the classifier that labels samples. Rests on `priors`."""
