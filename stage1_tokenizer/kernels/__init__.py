"""Faster forms of layers, swapped into networks that are plain torch. Rests on `layers`, `networks` and `losses`."""
