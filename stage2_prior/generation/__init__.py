"""Codes drawn from logits: guidance, cut-offs, caches. Rests on `config`."""
