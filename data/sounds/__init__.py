"""Sounds as samples: decoded, resampled and cut into clips of one length. Rests on `shards`."""
