"""Grids of codes as samples. Rests on `shards`."""
