"""Samples as texts and codes in one row of tokens: segments, directions, packing, batches. Rests on `codes`."""
