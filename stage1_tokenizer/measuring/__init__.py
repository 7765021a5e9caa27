"""Figures of reconstructions, codes and sets."""
