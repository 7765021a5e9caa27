"""The kinds of prior, and what conditions them. Rests on `codes` and `generation`."""
