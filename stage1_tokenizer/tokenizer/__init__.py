"""The public `Tokenizer`: saved, opened, applied. Rests on `networks`, `quantizers` and `kernels`."""
