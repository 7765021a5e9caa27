"""One training step, and everything it trains. Rests on `tokenizer`, `losses` and `discriminators`."""
