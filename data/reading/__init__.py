"""Batches in the order of `order`, read and decoded ahead of training. Rests on `data.config`, `order` and `shards`."""
