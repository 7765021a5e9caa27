"""The kinds of prior, and what conditions them."""
