"""Layers that all networks share. Rests on nothing but torch."""
