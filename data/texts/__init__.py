"""Texts as samples. Rests on `shards`."""
