"""The kinds of prior, and what conditions them. Rests on `config`, `codes` and `generation`."""
