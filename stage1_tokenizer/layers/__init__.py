"""Layers that all networks share. Rests on `config`."""
