"""Metrics of reconstructions, codes and sets of pictures. Rests on `tokenizer` and `losses`."""
