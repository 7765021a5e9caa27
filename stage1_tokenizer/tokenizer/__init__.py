"""The public `Tokenizer`: networks and a quantizer, saved, opened and applied. Rests on `networks` and `quantizers`."""
