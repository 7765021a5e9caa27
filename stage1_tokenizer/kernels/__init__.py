"""Faster forms of layers, swapped into networks that are plain torch. Rests on the rooms of these networks."""
