"""Grids of token ids as samples."""
